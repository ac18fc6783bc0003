//! Compiles a plugin in a process of its own, which is killed when it takes too much: Cranelift can be neither bounded nor
//! cancelled, and a component from outside may be made to keep it busy for hours or to fill the memory.
//!
//! ```text
//! host ──component──▶ stdin │ fanfare compile-plugin │ stdout ──machine code──▶ host ──MAC──▶ cache
//!                           │ limits on itself first │ stderr ──why not
//! ```
//! The process is the host's own program, so both compile alike. What comes back is trusted as the host's own work.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use wasmtime::Engine;

use super::engine;
use super::error::LoadError;
use super::plugin::PLUGIN_BYTES_MAX;
use crate::policy::CompileLimits;

/// The command of the program that compiles; no person needs it.
pub const COMMAND: &str = "compile-plugin";

/// Machine code of a component of the largest size.
const COMPILED_BYTES_MAX: u64 = 1 << 30;
const STDERR_BYTES_MAX: u64 = 4 << 10;
/// What Rust says when memory is refused, and what wasmtime does where it counts on that: with a panic, or with an error.
const OUT_OF_MEMORY: [&str; 2] = ["memory allocation of ", "out of memory (failed to allocate "];
/// From the end of what it writes to its own end.
const END_TIME_MAX: Duration = Duration::from_secs(10);
const END_LOOK_EVERY: Duration = Duration::from_millis(1);

/// Where plugins are compiled.
#[derive(Clone, Debug, Default)]
pub enum Compiler {
    /// In this process, without limits: for plugins that are trusted, as those of tests and benchmarks are.
    #[default]
    Here,
    /// By this program, which is fanfare.
    Child(PathBuf, CompileLimits),
}

impl Compiler {
    /// By the program that runs.
    ///
    /// # Errors
    /// Where its file cannot be told.
    pub fn this_program(limits: CompileLimits) -> io::Result<Self> {
        // Leads to this very program still when another one took its place on the disk: an upgrade under a host that runs.
        let itself = Path::new("/proc/self/exe");
        let program = if itself.exists() { itself.to_owned() } else { std::env::current_exe()? };
        Ok(Self::Child(program, limits))
    }

    pub(super) fn compile(&self, engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>, LoadError> {
        match self {
            Self::Here => engine.precompile_component(bytes).map_err(|cause| LoadError::Compile(format!("{cause:#}"))),
            Self::Child(program, limits) => compile_in(program, bytes, limits),
        }
    }
}

/// How the process ended, and what it said until then.
struct Ran {
    status: ExitStatus,
    compiled: Vec<u8>,
    stderr: String,
    out_of_time: bool,
}

fn compile_in(program: &Path, bytes: &[u8], limits: &CompileLimits) -> Result<Vec<u8>, LoadError> {
    let mut command = Command::new(program);
    command.args([COMMAND, &limits.memory.to_string(), &limits.cpu_seconds().to_string()]).env_clear().current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let lost =
        |error: io::Error| LoadError::Host(format!("{} cannot be run to compile it: {error}", program.display()));
    let child = command.spawn().map_err(lost)?;
    let ran = attend(child, bytes, limits.time).map_err(lost)?;
    judge(ran, limits)
}

/// Feeds it, listens to it, and kills it when its time is over.
fn attend(mut child: Child, bytes: &[u8], time_max: Duration) -> io::Result<Ran> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (ended, watch) = mpsc::channel::<()>();
    let (compiled, stderr, out_of_time) = thread::scope(|scope| {
        // One that ends before it has read everything says why in another way.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(bytes)));
        let stderr = scope.spawn(move || read(stderr, STDERR_BYTES_MAX));
        let stdout = scope.spawn(move || {
            let compiled = read(stdout, COMPILED_BYTES_MAX);
            drop(ended);
            compiled
        });
        let out_of_time = watch.recv_timeout(time_max) == Err(RecvTimeoutError::Timeout);
        if out_of_time {
            // It cannot have been waited for yet.
            drop(child.kill());
        }
        let joined = |thread: thread::ScopedJoinHandle<'_, Vec<u8>>| thread.join().unwrap_or_default();
        (joined(stdout), joined(stderr), out_of_time)
    });
    let status = end(&mut child)?;
    Ok(Ran { status, compiled, stderr: String::from_utf8_lossy(&stderr).trim().to_owned(), out_of_time })
}

/// Waits for a process that closed its standard output, and so has nothing more to do; one that does not end is killed.
fn end(child: &mut Child) -> io::Result<ExitStatus> {
    let deadline = Instant::now() + END_TIME_MAX;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        thread::sleep(END_LOOK_EVERY);
    }
    drop(child.kill());
    child.wait()
}

fn read(from: Option<impl Read>, max: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What was read until an error is all there is.
    drop(from.map(|from| from.take(max).read_to_end(&mut bytes)));
    bytes
}

#[cfg(unix)]
fn judge(ran: Ran, limits: &CompileLimits) -> Result<Vec<u8>, LoadError> {
    use std::os::unix::process::ExitStatusExt;
    const SIGXCPU: i32 = 24;
    let Ran { status, compiled, stderr, out_of_time } = ran;
    let out_of_memory = || OUT_OF_MEMORY.iter().any(|said| stderr.contains(said));
    match (status.code(), status.signal()) {
        _ if out_of_time => Err(LoadError::CompileLimit { what: "time", limit: format!("{:?}", limits.time) }),
        (Some(0), _) if compiled.len() as u64 >= COMPILED_BYTES_MAX => {
            Err(LoadError::CompileLimit { what: "machine code", limit: format!("{COMPILED_BYTES_MAX} bytes") })
        }
        (Some(0), _) => Ok(compiled),
        (_, Some(SIGXCPU)) => {
            Err(LoadError::CompileLimit { what: "CPU time", limit: format!("{}s", limits.cpu_seconds()) })
        }
        _ if out_of_memory() => {
            Err(LoadError::CompileLimit { what: "memory", limit: format!("{} MiB", limits.memory >> 20) })
        }
        (Some(1), _) => Err(LoadError::Compile(stderr)),
        _ => Err(LoadError::Compile(format!("the compiler broke down ({status}): {stderr}"))),
    }
}

/// What the child does: limits itself to so many bytes of address space and seconds of CPU, reads a component from standard
/// input, and writes its machine code to standard output.
///
/// # Errors
/// Why not, in words for the plugin's author.
pub fn serve(memory: u64, cpu_seconds: u64) -> Result<(), String> {
    confine(memory, cpu_seconds).map_err(|error| format!("the limits of the compiler cannot be set: {error}"))?;
    let mut bytes = Vec::new();
    let stdin = io::stdin().lock().take(PLUGIN_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    stdin.map_err(|error| error.to_string())?;
    if bytes.len() > PLUGIN_BYTES_MAX {
        return Err(format!("the component has more than {PLUGIN_BYTES_MAX} bytes"));
    }
    let engine = Engine::new(&engine::config()).map_err(|cause| format!("{cause:#}"))?;
    let compiled = engine.precompile_component(&bytes).map_err(|cause| format!("{cause:#}"))?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(&compiled).and_then(|()| stdout.flush()).map_err(|error| error.to_string())
}

/// No more memory and CPU than it may take, no files, no core dump, and no life after the host's.
#[cfg(target_os = "linux")]
fn confine(memory: u64, cpu_seconds: u64) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let limits = [
        (Resource::As, memory),
        (Resource::Cpu, cpu_seconds),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Nofile, 0),
    ];
    for (resource, max) in limits {
        // What the host itself may not exceed, its child may not either.
        let host = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        // Where the hard limit on CPU is reached, the kernel kills without a word; a second before it, with one that the host reads.
        let over = u64::from(matches!(resource, Resource::Cpu));
        let maximum = host.min(max + over);
        setrlimit(resource, Rlimit { current: Some(maximum.saturating_sub(over)), maximum: Some(maximum) })?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn confine(_: u64, _: u64) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A program that is no compiler.
    fn program(dir: &Path, script: &str) -> PathBuf {
        let path = dir.join("compiler");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    const TIME_MAX: Duration = Duration::from_secs(120);

    fn run(script: &str, time: Duration) -> Result<Vec<u8>, LoadError> {
        let dir = tempfile::tempdir().unwrap();
        let limits = CompileLimits { time, ..CompileLimits::default() };
        compile_in(&program(dir.path(), script), &[7; 100_000], &limits)
    }

    #[test]
    fn what_it_writes_is_what_was_compiled_and_what_it_complains_of_is_told() {
        assert_eq!(run("exec /bin/cat", TIME_MAX).unwrap(), [7; 100_000]);
        assert_eq!(run("cat; exec >&-; sleep 0.2", TIME_MAX).unwrap(), [7; 100_000], "it may take its time to end");
        let told = run("echo 'no such type' >&2; exit 1", TIME_MAX).unwrap_err().to_string();
        assert_eq!(told, "it cannot be compiled: no such type");
        let lost = compile_in(Path::new("/nowhere/fanfare"), b"", &CompileLimits::default()).unwrap_err();
        assert!(matches!(lost, LoadError::Host(_)), "{lost}");
    }

    #[test]
    fn one_that_takes_too_much_is_killed_and_told_by_its_limit() {
        let began = Instant::now();
        let told = run("exec /bin/sleep 600", Duration::from_millis(200)).unwrap_err();
        assert!(matches!(told, LoadError::CompileLimit { what: "time", .. }), "{told}");
        assert!(began.elapsed() < Duration::from_secs(60), "it was waited for");
        let told = run("kill -XCPU $$", TIME_MAX).unwrap_err();
        assert!(matches!(told, LoadError::CompileLimit { what: "CPU time", .. }), "{told}");
        for out_of_memory in [
            "echo 'memory allocation of 9 bytes failed' >&2; kill -ABRT $$",
            "echo 'unhandled out-of-memory error: out of memory (failed to allocate 9 bytes)' >&2; exit 101",
            "echo 'out of memory (failed to allocate 9 bytes)' >&2; exit 1",
        ] {
            let told = run(out_of_memory, TIME_MAX).unwrap_err();
            assert!(matches!(told, LoadError::CompileLimit { what: "memory", .. }), "{out_of_memory}: {told}");
        }
        let told = run("kill -SEGV $$", TIME_MAX).unwrap_err().to_string();
        assert!(told.contains("the compiler broke down"), "{told}");
    }

    #[test]
    fn it_is_told_nothing_of_what_the_host_was_told() {
        let told = String::from_utf8(run("exec /usr/bin/env", TIME_MAX).unwrap()).unwrap();
        assert!(!told.contains("CARGO") && !told.contains("HOME="), "{told}");
    }

    #[test]
    fn machine_code_that_was_cut_off_is_not_taken() {
        let compiled = vec![0; usize::try_from(COMPILED_BYTES_MAX).unwrap()];
        let ran = Ran { status: ExitStatus::default(), compiled, stderr: String::new(), out_of_time: false };
        let told = judge(ran, &CompileLimits::default()).map(drop).unwrap_err();
        assert!(matches!(told, LoadError::CompileLimit { what: "machine code", .. }), "{told}");
    }
}
