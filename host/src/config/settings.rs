//! The table of settings: each key once, with what it is for.

const PREFIX: &str = "FANFARE_";
/// Variables that are no settings of a host.
const OTHERS: [&str; 3] = ["FANFARE_URL", "FANFARE_CONFIG", "FANFARE_FAULT"];
/// Letters that are wrong, left out, too many or exchanged in a name that is meant for another one.
const SLIPS_MAX: usize = 2;

/// One setting. Its variable is `FANFARE_` and the key in capitals, its flag (where it has one) the key with dashes.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// `listen`, or `mail.port` for `port` in the table `mail`.
    pub key: &'static str,
    pub help: &'static str,
}

impl Setting {
    /// `FANFARE_MAIL_PORT`
    #[must_use]
    pub fn variable(self) -> String {
        format!("FANFARE_{}", self.key.replace('.', "_").to_ascii_uppercase())
    }

    /// `--mail-port`
    #[must_use]
    pub fn flag(self) -> String {
        format!("--{}", self.key.replace(['.', '_'], "-"))
    }
}

pub const SETTINGS: [Setting; 41] = [
    Setting { key: "listen", help: "address and port; port 0 takes a free one [127.0.0.1:8080]" },
    Setting { key: "insecure", help: "allow what others could reach or overhear [false]" },
    Setting {
        key: "allowed_hosts",
        help: "names in the header Host, with commas; * for any [localhost, 127.0.0.1, [::1]]",
    },
    Setting { key: "data_dir", help: "folder of the store [data]" },
    Setting { key: "consumers_dir", help: "folder of plugins and side files [consumers]" },
    Setting { key: "backend", help: "embedded, or aws [embedded]" },
    Setting { key: "plugin_keys", help: "who may sign plugins: ed25519:BASE64 or file:PATH, with commas [anybody]" },
    Setting { key: "compile.time", help: "for compiling one plugin, 1s to 1h; of CPU twice that [2m]" },
    Setting { key: "compile.memory", help: "the memory for that, 2GiB to 64GiB, of address space [8GiB]" },
    Setting { key: "mail.transport", help: "folder, smtp or off [folder]" },
    Setting { key: "mail.folder", help: "folder of the .eml files [<data_dir>/mail]" },
    Setting { key: "mail.from", help: "sender [Fanfare <fanfare@localhost>]" },
    Setting { key: "mail.host", help: "SMTP server" },
    Setting { key: "mail.port", help: "its port [465, 587 or 25, by mail.tls]" },
    Setting { key: "mail.tls", help: "implicit, starttls or off [starttls; implicit on port 465]" },
    Setting { key: "mail.user", help: "user name at the SMTP server" },
    Setting { key: "mail.password", help: "where the password is found: env:NAME or file:PATH" },
    Setting { key: "mail.concurrency", help: "messages on their way at the same time, 1 to 64 [4]" },
    Setting { key: "mail.rate", help: "messages a second, such as 50/s [no bound]" },
    Setting { key: "retention.events", help: "how long events stay in the journal, such as 90d [forever]" },
    Setting { key: "retention.orders", help: "orders at their end, from their last event on [forever]" },
    Setting { key: "retention.open_orders", help: "orders that can still change [forever]" },
    Setting { key: "retention.attempts", help: "attempts of deliveries that have ended [90d]" },
    Setting { key: "retention.messages", help: "messages that are not pending [90d]" },
    Setting { key: "retention.records", help: "rows of data sets [forever]" },
    Setting { key: "retention.idempotency", help: "how long a repeat of an order or event is known [7d]" },
    Setting { key: "aws.prefix", help: "what the names of all resources begin with [fanfare]" },
    Setting { key: "aws.region", help: "[that of the environment or the profile]" },
    Setting { key: "aws.profile", help: "profile with region and credentials, of ~/.aws/config [default]" },
    Setting { key: "aws.endpoint_url", help: "URL to call instead of AWS, such as an emulator's" },
    Setting { key: "aws.endpoint_url_dynamodb", help: "the same, for DynamoDB alone" },
    Setting { key: "aws.endpoint_url_sns", help: "for SNS alone" },
    Setting { key: "aws.endpoint_url_sqs", help: "for SQS alone" },
    Setting { key: "aws.provision", help: "whether hosts make and mend what they need at AWS [false]" },
    Setting { key: "aws.topic", help: "fifo or standard [fifo]" },
    Setting { key: "aws.attempts_max", help: "requests for one call, 1 to 10 [4]" },
    Setting { key: "aws.connect_timeout", help: "for a connection [3s]" },
    Setting { key: "aws.attempt_timeout", help: "for one request and its answer [5s]" },
    Setting { key: "aws.operation_timeout", help: "for one call with all its requests [20s]" },
    Setting { key: "log.format", help: "text or json [text]" },
    Setting { key: "log.level", help: "a level, or directives such as info,fanfare=debug [info]" },
];

/// The variable of a setting of which `variable` is a misspelling. Those that are known for something else are none, nor are
/// those that an orchestrator makes of the name of a service.
#[must_use]
pub fn nearest(variable: &str) -> Option<String> {
    let known: Vec<String> = SETTINGS.into_iter().map(Setting::variable).collect();
    if !variable.starts_with(PREFIX) || known.iter().any(|name| name == variable) || OTHERS.contains(&variable) {
        return None;
    }
    let near = known.into_iter().map(|name| (strsim::damerau_levenshtein(variable, &name), name)).min()?;
    Some(near).filter(|(slips, _)| *slips <= SLIPS_MAX).map(|(_, name)| name)
}

/// All settings as a text for `--help`.
#[must_use]
pub fn help() -> String {
    let mut text = String::from("Settings (file, then variable, then flag; paths start from the working directory):\n");
    for setting in SETTINGS {
        text.push_str(&format!("  {:<25} {:<33} {}\n", setting.key, setting.variable(), setting.help));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_almost_a_settings_is_taken_for_a_slip() {
        let near = |name: &str| nearest(name);
        assert_eq!(near("FANFARE_LISTN").as_deref(), Some("FANFARE_LISTEN"));
        assert_eq!(near("FANFARE_DATADIR").as_deref(), Some("FANFARE_DATA_DIR"));
        assert_eq!(near("FANFARE_MIAL_HOST").as_deref(), Some("FANFARE_MAIL_HOST"));
        for other in OTHERS {
            assert_eq!(near(other), None);
        }
        for other in
            ["FANFARE_LISTEN", "FANFARE_PORT", "FANFARE_SERVICE_HOST", "FANFARE_PORT_8080_TCP", "FANFARE", "LISTN"]
        {
            assert_eq!(near(other), None, "{other}");
        }
    }
}
