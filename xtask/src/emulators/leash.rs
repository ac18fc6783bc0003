//! A program that ends when whoever started it does: by its end, by Ctrl-C, by SIGTERM and by SIGKILL.
//!
//! A shell holds one end of a pipe and the holder of the leash the other. What ends the holder closes the pipe, and the
//! shell kills the program with everything that it started.

use std::fs::File;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

/// `sh -c HOLD FOLDER PROGRAM ARGUMENTS…`: FOLDER goes with the program. SIGKILL, because not every emulator minds another.
const HOLD: &str = r#"exec 3<&0
{ read -r _ <&3; rm -rf "$0"; kill -KILL 0; } &
exec "$@" 3<&- </dev/null"#;

/// Dropped, it ends the program and waits until it is gone.
pub struct Leash {
    child: Child,
    /// `Child::wait` would close it, and so end the program.
    pipe: Option<ChildStdin>,
}

impl Leash {
    /// Starts `command`; `folder` is removed when it ends, and `log` is what it prints.
    pub fn start(command: &Command, folder: &Path, log: &Path) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut held = hold(command, folder);
        held.stderr(log.try_clone()?).stdout(log);
        Self::spawn(&mut held)
    }

    /// How the program ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    fn spawn(held: &mut Command) -> Result<Self> {
        let mut child = held.spawn().context("cannot start `sh`")?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // It is gone either way.
        self.child.wait().ok();
    }
}

/// Runs `command` to its end, or to that of xtask.
pub fn run(command: &Command) -> Result<()> {
    let mut leash = Leash::spawn(&mut hold(command, Path::new("")))?;
    let pipe = leash.pipe.take();
    let status = leash.child.wait()?;
    drop(pipe);
    if !status.success() {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        bail!("`{}` ended with {status}", line.join(" "));
    }
    Ok(())
}

fn hold(command: &Command, folder: &Path) -> Command {
    let mut held = Command::new("sh");
    held.args(["-c", HOLD]).arg(folder).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => held.env(name, value),
            None => held.env_remove(name),
        };
    }
    held.stdin(Stdio::piped());
    // A group of its own: `kill 0` reaches nobody else, and Ctrl-C does not reach it past its holder.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut held, 0);
    held
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("fanfare-xtask-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_ends_with_its_leash_and_takes_what_it_started_and_its_folder_along() {
        let folder = folder("leash");
        // Both hold the pipe's writing end, which reads as ended when neither is left.
        let (mut left, theirs) = std::io::pipe().unwrap();
        let mut held = hold(&shell("trap '' TERM INT; sleep 1000 & wait"), &folder);
        held.stdout(theirs);
        let mut leash = Leash::spawn(&mut held).unwrap();
        drop(held);
        assert!(leash.ended().unwrap().is_none());
        assert!(folder.exists());

        drop(leash);
        assert_eq!(left.read_to_end(&mut Vec::new()).unwrap(), 0);
        assert!(!folder.exists());
    }

    #[test]
    fn a_program_that_ends_by_itself_says_how() {
        let folder = folder("ended");
        let mut leash = Leash::start(&shell("echo why; exit 7"), &folder, &folder.join("log")).unwrap();
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = leash.ended().unwrap() {
                break status;
            }
            assert!(begin.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.code(), Some(7));
        assert_eq!(fs::read_to_string(folder.join("log")).unwrap(), "why\n");
    }

    #[test]
    fn what_is_run_to_its_end_is_not_cut_short() {
        run(&shell("read -r _; true")).unwrap();
        let error = run(&shell("exit 3")).unwrap_err().to_string();
        assert!(error.starts_with("`sh -c exit 3` ended with "), "{error}");
    }
}
