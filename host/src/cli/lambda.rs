//! `fanfare lambda`: what the program is as a function of AWS Lambda.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Failure;
use super::serve::HostFlags;
use crate::config::{BackendKind, from_env};
use crate::lambda::{self, Role};
use crate::policy::ConsumerName;
use crate::telemetry;

/// Where a function gets its events from. AWS Lambda sets this and the others.
const RUNTIME_API: &str = "AWS_LAMBDA_RUNTIME_API";
const GIVEN_BY_LAMBDA: [&str; 4] =
    [RUNTIME_API, "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_VERSION"];
/// What a function was set up with as its handler.
const HANDLER: &str = "_HANDLER";
/// The only folder that a function may write to.
const DATA_DIR: &str = "/tmp/fanfare";

const AFTER_HELP: &str = "\
As the file `bootstrap` of a function, without arguments, the program does what the function's handler says:
  api              fanfare lambda api
  consumer.NAME    fanfare lambda consumer NAME
  worker           fanfare lambda worker

Settings come as those of `fanfare serve`, by file or variable; the backend is aws.";

/// Be a function of AWS Lambda, on the same store as hosts on AWS.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct Lambda {
    #[command(subcommand)]
    function: Function,
    /// Settings file [default: fanfare.toml, if it is there]
    #[arg(long, global = true, env = "FANFARE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of plugins and side files [default: consumers]
    #[arg(long, global = true, value_name = "DIR")]
    consumers_dir: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Function {
    /// Answer requests of API Gateway, of a load balancer or of the function's own URL.
    Api,
    /// Handle the messages of a consumer's queue; some of them may come back.
    Consumer {
        #[arg(value_name = "NAME")]
        name: ConsumerName,
    },
    /// Publish what was left, retry what is due, catch up and send messages; to be invoked every minute.
    Worker,
}

impl Lambda {
    pub fn run(self) -> Result<(), Failure> {
        let Self { function, config, consumers_dir } = self;
        let mut config = HostFlags::folders(config, None, consumers_dir).config_or(&[("data_dir", DATA_DIR)])?;
        config.backend = BackendKind::Aws;
        let missing: Vec<&str> = GIVEN_BY_LAMBDA.into_iter().filter(|name| from_env(name).is_none()).collect();
        let Some(runtime_api) = from_env(RUNTIME_API).filter(|_| missing.is_empty()) else {
            return Err(Failure::Usage(format!(
                "`fanfare lambda` is started by AWS Lambda, which sets {}; `fanfare serve` runs a host on this machine",
                missing.join(", ")
            )));
        };
        telemetry::start_log(&config.log).map_err(|error| Failure::Failed(error.to_string()))?;
        let role = match function {
            Function::Api => Role::Api,
            Function::Consumer { name } => Role::Consumer(name),
            Function::Worker => Role::Worker,
        };
        Ok(lambda::run(&config, role, &runtime_api)?)
    }
}

/// What the program was called with. AWS Lambda gives it no arguments, but a handler.
pub fn arguments() -> Vec<OsString> {
    let given: Vec<OsString> = std::env::args_os().collect();
    match from_env(HANDLER).filter(|_| given.len() == 1 && from_env(RUNTIME_API).is_some()) {
        Some(handler) => called(&handler),
        None => given,
    }
}

fn called(handler: &str) -> Vec<OsString> {
    ["fanfare", "lambda"].into_iter().chain(handler.splitn(2, '.')).map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    use super::called;

    #[test]
    fn a_handler_names_a_command() {
        assert_eq!(called("api"), ["fanfare", "lambda", "api"]);
        assert_eq!(called("consumer.fraud-check"), ["fanfare", "lambda", "consumer", "fraud-check"]);
    }
}
