//! What stands in for AWS in the tests: SNS and SQS by LocalStack's open core, DynamoDB by dynoxide; for stacks of
//! CloudFormation and what is in them, ministack.
//!
//! **Invariants**
//! - They listen on 127.0.0.1 alone.
//! - What they keep is in memory, or in a folder that goes with them: every start begins with nothing.
//! - None outlives xtask, however that ended: each is on a [`Leash`].

mod fetch;
mod leash;
mod probe;

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use fetch::Fetched;
use leash::Leash;
use probe::Instead;

/// How long an emulator may take until it answers: seconds, unless the machine compiles at the same time.
const PATIENCE: Duration = Duration::from_secs(180);

/// Between two looks at an emulator.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Below what kernels hand out for outgoing connections, so that none takes a port that was found free.
const PORTS: Range<u16> = 20_000..30_000;

/// How much of an emulator's log is shown when it fails, in lines.
const LOG_LINES_MAX: usize = 60;

/// By these the clients of AWS find what stands in for it.
const ENDPOINTS: [&str; 4] =
    ["AWS_ENDPOINT_URL_SNS", "AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL_CLOUDFORMATION"];

/// Where the linter of CloudFormation's templates is, for the tests.
const LINTER: &str = "FANFARE_CFN_LINT";

/// Where the tests find what makes a component of Python or JavaScript.
const LANGUAGES: &str = "FANFARE_LANGUAGES";

/// Emulators that run until this is dropped.
pub struct Emulators {
    running: Vec<Emulator>,
    environment: Vec<(&'static str, String)>,
}

struct Emulator {
    name: &'static str,
    port: u16,
    log: PathBuf,
    leash: Leash,
}

/// `cargo xtask emulators`: runs them until Ctrl-C.
pub fn run(workspace: &Workspace) -> Result<()> {
    let mut emulators = Emulators::start(&workspace.root, &workspace.target)?;
    for (name, value) in emulators.environment() {
        println!("export {name}={value}");
    }
    eprintln!("the emulators run until Ctrl-C; each start begins with nothing");
    loop {
        for emulator in &mut emulators.running {
            emulator.check()?;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Starts them beside whatever goes on until they are waited for; none where the caller's environment names others.
pub fn start_beside(workspace: &Workspace) -> JoinHandle<Result<Emulators>> {
    let (root, target) = (workspace.root.clone(), workspace.target.clone());
    let named = ENDPOINTS.iter().all(|name| std::env::var_os(name).is_some());
    let none = Emulators { running: Vec::new(), environment: Vec::new() };
    thread::spawn(move || if named { Ok(none) } else { Emulators::start(&root, &target) })
}

impl Emulators {
    /// Fetches what is missing, starts all and waits until they answer.
    fn start(root: &Path, target: &Path) -> Result<Self> {
        let fetched = fetch::fetch(root, target)?;
        let folder = |name| target.join(format!("emulators/{name}-{}", std::process::id()));
        let mut messaging = localstack(&fetched, &folder("localstack"))?;
        let mut tables = dynoxide(&fetched, &folder("dynoxide"))?;
        let mut stacks = ministack(&fetched, &folder("ministack"))?;
        tables.wait_for(|tables| probe::tables(tables.port))?;
        messaging.wait_for(|messaging| {
            // Where its port was taken, it says that it is ready and leaves this out; another would answer.
            if !messaging.log().contains("Running on ") {
                return Err("it does not listen".to_owned());
            }
            probe::queues(messaging.port)?;
            probe::topics(messaging.port)
        })?;
        stacks.wait_for(|stacks| {
            if !stacks.log().contains("Running on ") {
                return Err("it does not listen".to_owned());
            }
            probe::stacks(stacks.port)
        })?;
        let url = |emulator: &Emulator| format!("http://{}:{}", Ipv4Addr::LOCALHOST, emulator.port);
        let [sns, sqs, dynamodb, cloudformation] = ENDPOINTS;
        let linter = fetched.cloudformation("cfn-lint").get_program().to_string_lossy().into_owned();
        let environment = vec![
            (sns, url(&messaging)),
            (sqs, url(&messaging)),
            (dynamodb, url(&tables)),
            (cloudformation, url(&stacks)),
            (LINTER, linter),
            (LANGUAGES, fetched.languages()),
            ("AWS_REGION", probe::REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", probe::CREDENTIAL.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", probe::CREDENTIAL.to_owned()),
        ];
        Ok(Self { running: vec![messaging, tables, stacks], environment })
    }

    /// What tells an AWS client to talk to them.
    pub fn environment(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.environment.iter().map(|(name, value)| (*name, value.as_str()))
    }
}

fn localstack(fetched: &Fetched, folder: &Path) -> Result<Emulator> {
    let port = free_port()?;
    let address = format!("{}:{port}", Ipv4Addr::LOCALHOST);
    let root = folder.join("root");
    fetched.copy_catalogue(&root)?;
    let mut command = fetched.localstack(&root);
    command.args(["-m", "localstack.runtime.main"]);
    // Its default server listens on all addresses. Queue URLs name LOCALSTACK_HOST.
    command.envs([("GATEWAY_SERVER", "hypercorn"), ("GATEWAY_LISTEN", &address), ("LOCALSTACK_HOST", &address)]);
    command.envs([("SERVICES", "sns,sqs"), ("EAGER_SERVICE_LOADING", "1"), ("SQS_ENDPOINT_STRATEGY", "path")]);
    command.env("SQS_ENABLE_MESSAGE_RETENTION_PERIOD", "1");
    // It is to talk to nobody, and to say little.
    command.envs([("DISABLE_EVENTS", "1"), ("SKIP_SSL_CERT_DOWNLOAD", "1"), ("DNS_ADDRESS", "0"), ("LS_LOG", "warn")]);
    Emulator::start("LocalStack", port, folder, &command)
}

fn dynoxide(fetched: &Fetched, folder: &Path) -> Result<Emulator> {
    let port = free_port()?;
    let mut command = Command::new(&fetched.dynoxide);
    command.args(["--host", &Ipv4Addr::LOCALHOST.to_string(), "--port", &port.to_string()]);
    Emulator::start("dynoxide", port, folder, &command)
}

fn ministack(fetched: &Fetched, folder: &Path) -> Result<Emulator> {
    let port = free_port()?;
    let mut command = fetched.cloudformation("ministack");
    command.envs([("BIND_HOST", Ipv4Addr::LOCALHOST.to_string()), ("GATEWAY_PORT", port.to_string())]);
    Emulator::start("ministack", port, folder, &command)
}

impl Emulator {
    fn start(name: &'static str, port: u16, folder: &Path, command: &Command) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let log = folder.join("log");
        let leash = Leash::start(command, folder, &log).with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, port, log, leash })
    }

    fn wait_for(&mut self, answer: impl Fn(&Self) -> Result<(), Instead>) -> Result<()> {
        let begin = Instant::now();
        while let Err(instead) = answer(self) {
            self.check()?;
            if begin.elapsed() > PATIENCE {
                bail!("{} does not answer on port {}: {instead}\n{}", self.name, self.port, self.end_of_log());
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// An error if it ended.
    fn check(&mut self) -> Result<()> {
        let Some(status) = self.leash.ended()? else { return Ok(()) };
        bail!("{} on port {} ended with {status}:\n{}", self.name, self.port, self.end_of_log())
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn end_of_log(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines.get(lines.len().saturating_sub(LOG_LINES_MAX)..).unwrap_or_default().join("\n")
    }
}

/// Begins to look anywhere, so that two that look at the same time do not find the same.
fn free_port() -> Result<u16> {
    let begin = RandomState::new().build_hasher().finish() as usize % PORTS.len();
    let mut ports = PORTS.skip(begin).chain(PORTS.take(begin));
    ports
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .with_context(|| format!("no port of 127.0.0.1 from {} to {} is free", PORTS.start, PORTS.end))
}
