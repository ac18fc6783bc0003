//! Brings the emulators into the target folder, once for each set of versions; and with them, since it comes from the same
//! places, what makes components of consumers in Python and JavaScript.
//!
//! ```text
//! TARGET/emulators/fetched/python          virtual environment with LocalStack, Node.js, npm and componentize-py
//!                          cloudformation  another, with cfn-lint and ministack
//!                          catalogue       what LocalStack knows of AWS, in the form that it starts from quickly
//!                          npm             dynoxide
//!                          javascript      componentize-js
//!                          stamp           which versions these are, written last
//! ```

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::leash;

/// Versions of everything from PyPI, from the root of the checkout.
const REQUIREMENTS: &str = "xtask/emulators.txt";

/// The same for CloudFormation: the two do not agree about what they need.
const CLOUDFORMATION: &str = "xtask/cloudformation.txt";

/// What makes a component of a consumer in Python.
const LANGUAGES: &str = "xtask/languages.txt";

/// A consumer in JavaScript, and in its lock file what makes a component of it.
const JAVASCRIPT: &str = "plugins/examples/javascript";

const NPM_FILES: [&str; 2] = ["package.json", "package-lock.json"];

/// Of npm: nothing but what it is for, and no program of a package while it is installed.
const NPM_QUIET: [&str; 4] = ["--silent", "--ignore-scripts", "--no-audit", "--no-fund"];

/// The program is in a package for the platform alone.
const DYNOXIDE: &str = "@dynoxide/linux-x64@1.2.1";

const DYNOXIDE_PROGRAM: &str = "node_modules/@dynoxide/linux-x64/dynoxide";

/// Where LocalStack looks for its catalogue, from the root of its files.
const CATALOGUE: &str = "usr/lib/localstack";

pub struct Fetched {
    python: PathBuf,
    cloudformation: PathBuf,
    catalogue: PathBuf,
    javascript: PathBuf,
    pub dynoxide: PathBuf,
}

/// Fetches what is not there yet, and says so.
pub fn fetch(root: &Path, target: &Path) -> Result<Fetched> {
    let mut stamp = format!("{}{DYNOXIDE}\n", python_version()?);
    let of_npm = NPM_FILES.map(|file| format!("{JAVASCRIPT}/{file}"));
    for versions in [REQUIREMENTS, CLOUDFORMATION, LANGUAGES].into_iter().chain(of_npm.iter().map(String::as_str)) {
        let text = fs::read_to_string(root.join(versions));
        stamp.push_str(&text.with_context(|| format!("cannot read {versions}"))?);
    }

    let folder = target.join("emulators");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Two that start at once fetch once.
    let lock = folder.join("lock");
    let lock = File::create(&lock).with_context(|| format!("cannot create {}", lock.display()))?;
    lock.lock().context("cannot wait for another that fetches the emulators")?;

    let folder = folder.join("fetched");
    let fetched = Fetched {
        python: folder.join("python"),
        cloudformation: folder.join("cloudformation"),
        catalogue: folder.join("catalogue"),
        javascript: folder.join("javascript"),
        dynoxide: dynoxide(&folder.join("npm"))?,
    };
    if fs::read_to_string(folder.join("stamp")).is_ok_and(|found| found == stamp) {
        return Ok(fetched);
    }
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
    .with_context(|| format!("cannot empty {}", folder.display()))?;
    eprintln!("fetching the emulators of SNS, SQS, DynamoDB and CloudFormation: a minute or two, once");
    fetched.install(root, &folder)?;
    fs::write(folder.join("stamp"), stamp).context("cannot note which emulators were fetched")?;
    eprintln!("the emulators are in {}", folder.display());
    Ok(fetched)
}

impl Fetched {
    fn install(&self, root: &Path, folder: &Path) -> Result<()> {
        for environment in [&self.python, &self.cloudformation] {
            let mut python = Command::new("python3");
            leash::run(python.args(["-m", "venv"]).arg(environment)).with_context(needs_python)?;
        }
        for (environment, requirements) in
            [(&self.python, REQUIREMENTS), (&self.python, LANGUAGES), (&self.cloudformation, CLOUDFORMATION)]
        {
            let mut pip = Command::new(environment.join("bin/python"));
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
            let fetched = leash::run(pip.arg(root.join(requirements)));
            fetched.with_context(|| format!("cannot fetch from PyPI what is in {requirements}"))?;
        }
        fs::create_dir_all(self.catalogue.join(CATALOGUE)).context("cannot create a folder for LocalStack")?;
        let mut catalogue = self.localstack(&self.catalogue);
        leash::run(catalogue.args(["-m", "localstack.aws.spec"])).context("cannot prepare LocalStack")?;

        let npm = |verb: &str, prefix: &Path| {
            let mut npm = Command::new(self.program("npm"));
            npm.arg(verb).args(NPM_QUIET).arg("--prefix").arg(prefix);
            npm
        };
        if has_package() {
            let fetched = leash::run(npm("install", &folder.join("npm")).arg(DYNOXIDE));
            fetched.context("cannot fetch dynoxide from npm")?;
        }
        fs::create_dir_all(&self.javascript).context("cannot create a folder for componentize-js")?;
        for file in NPM_FILES {
            let from = root.join(JAVASCRIPT).join(file);
            fs::copy(&from, self.javascript.join(file)).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        leash::run(&npm("ci", &self.javascript)).context("cannot fetch componentize-js from npm")
    }

    /// Folders of what makes components, `componentize-py` and `componentize-js`, and of `node`, which the second is run by; as
    /// in `PATH`.
    pub fn languages(&self) -> String {
        format!("{}:{}", self.python.join("bin").display(), self.javascript.join("node_modules/.bin").display())
    }

    /// LocalStack's Python, for a LocalStack that keeps its files below `root` though it may run in a container.
    pub fn localstack(&self, root: &Path) -> Command {
        let mut command = Command::new(self.program("python"));
        command.env("FILESYSTEM_ROOT", root).env("OVERRIDE_IN_DOCKER", "0");
        command
    }

    /// Without it, the first request waits until it is made.
    pub fn copy_catalogue(&self, root: &Path) -> Result<()> {
        let (from, to) = (self.catalogue.join(CATALOGUE), root.join(CATALOGUE));
        fs::create_dir_all(&to).with_context(|| format!("cannot create {}", to.display()))?;
        for entry in fs::read_dir(&from).with_context(|| format!("cannot list {}", from.display()))? {
            let entry = entry?;
            let path = entry.path();
            if path.is_file() {
                fs::copy(&path, to.join(entry.file_name()))
                    .with_context(|| format!("cannot copy {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// A program of those for CloudFormation: `cfn-lint` or `ministack`.
    pub fn cloudformation(&self, name: &str) -> Command {
        Command::new(self.cloudformation.join("bin").join(name))
    }

    fn program(&self, name: &str) -> PathBuf {
        self.python.join("bin").join(name)
    }
}

/// The virtual environment is of one Python and breaks with another.
fn python_version() -> Result<String> {
    let python = Command::new("python3").args(["-c", "import ensurepip, sys; print(sys.version)"]).output();
    let output = python.ok().filter(|output| output.status.success()).with_context(needs_python)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn needs_python() -> String {
    "the emulators of AWS need `python3` (3.11 or newer) with `venv`: install it, on Debian by \
     `apt-get install python3-venv`, or set AWS_ENDPOINT_URL_SNS, _SQS, _DYNAMODB and _CLOUDFORMATION to emulators of your own"
        .to_owned()
}

fn has_package() -> bool {
    cfg!(all(target_os = "linux", target_arch = "x86_64"))
}

/// What npm brings, and elsewhere what is installed.
fn dynoxide(npm: &Path) -> Result<PathBuf> {
    if has_package() {
        return Ok(npm.join(DYNOXIDE_PROGRAM));
    }
    let probe = Command::new("dynoxide").arg("--version").stdout(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        bail!("no `dynoxide`, the emulator of DynamoDB: install it by `cargo install --locked dynoxide-rs`");
    }
    Ok(PathBuf::from("dynoxide"))
}
