//! From what was written to what it means. Every setting is looked at, so that one start tells every mistake.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use lettre::message::Mailbox;
use tracing_subscriber::EnvFilter;

use super::{
    AllowedHosts, BackendKind, Config, Error, Given, Log, LogFormat, Login, Mail, RawConfig, Smtp, Tls, Transport,
    without_login,
};
use crate::fault::{self, Fault};
use crate::file;

/// Each message on its way is a connection to the mail server; more than this is taken for abuse.
const MAIL_CONCURRENCY_MAX: usize = 64;
const MAIL_CONCURRENCY: NonZeroUsize = NonZeroUsize::new(4).unwrap();
/// A password is a line, not a file of any size.
const SECRET_BYTES_MAX: u64 = 64 << 10;

pub(super) fn check(raw: RawConfig, variable: &dyn Fn(&str) -> Option<String>) -> Result<Config, Error> {
    let mut check = Check::new(raw, variable);
    let insecure = check.read("insecure", boolean).unwrap_or(false);
    let listen = check.listen(insecure);
    let consumers_dir_named = check.raw.origin("consumers_dir");
    let data_dir = check.read("data_dir", folder).unwrap_or_else(|| "data".into());
    let config = Config {
        listen,
        allowed_hosts: check.read("allowed_hosts", allowed_hosts).unwrap_or(AllowedHosts::ByAddress),
        consumers_dir: check.read("consumers_dir", folder).unwrap_or_else(|| "consumers".into()),
        consumers_dir_named,
        plugin_keys: check.plugin_keys(),
        compile: check.compile(),
        backend: check.read("backend", backend).unwrap_or(BackendKind::Embedded),
        mail: check.mail(&data_dir, insecure),
        retention: check.retention(),
        aws: check.aws(insecure),
        log: Log {
            format: check.read("log.format", log_format).unwrap_or(LogFormat::Text),
            level: check.read("log.level", log_level).unwrap_or_else(|| Log::default().level),
        },
        fault: check.fault(),
        data_dir,
    };
    if check.faults.is_empty() { Ok(config) } else { Err(Error(check.faults)) }
}

pub(super) struct Check<'a> {
    pub(super) raw: RawConfig,
    variable: &'a dyn Fn(&str) -> Option<String>,
    pub(super) faults: Vec<String>,
}

impl<'a> Check<'a> {
    pub(super) fn new(raw: RawConfig, variable: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { raw, variable, faults: Vec::new() }
    }

    /// The setting's value as `read` understands it; absent or wrong is `None`, and wrong is noted.
    pub(super) fn read<T>(&mut self, key: &'static str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let given = self.raw.take(key)?;
        self.understand(&given, read)
    }

    pub(super) fn understand<T>(&mut self, given: &Given, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        read(&given.text).map_err(|what| self.faults.push(format!("{}: {what}", given.origin))).ok()
    }

    /// No setting: it is for tests, and neither a file nor a flag can set it.
    fn fault(&mut self) -> Option<Fault> {
        let text = (self.variable)(fault::VARIABLE)?;
        text.parse().map_err(|what| self.faults.push(format!("{}: {what}", fault::VARIABLE))).ok()
    }

    fn listen(&mut self, insecure: bool) -> SocketAddr {
        const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
        let read = |text: &str| {
            let address = address(text)?;
            if address.ip().is_loopback() || insecure {
                return Ok(address);
            }
            Err(format!(
                "{text:?} can be reached from other machines, and callers are not asked who they are: listen on \
                 127.0.0.1 behind a proxy that asks, or pass --insecure"
            ))
        };
        self.read("listen", read).unwrap_or(DEFAULT)
    }

    fn mail(&mut self, data_dir: &std::path::Path, insecure: bool) -> Mail {
        let kind = self.read("mail.transport", |text| {
            one_of(text, &[("folder", Kind::Folder), ("smtp", Kind::Smtp), ("off", Kind::Off)])
        });
        let folder_given = self.read("mail.folder", folder).unwrap_or_else(|| data_dir.join("mail"));
        let smtp = self.smtp(kind == Some(Kind::Smtp), insecure);
        let transport = match (kind, smtp) {
            (Some(Kind::Smtp), Some(smtp)) => Transport::Smtp(smtp),
            (Some(Kind::Off | Kind::Smtp), _) => Transport::Off,
            (Some(Kind::Folder) | None, _) => Transport::Folder(folder_given),
        };
        Mail {
            from: self.read("mail.from", mailbox).unwrap_or_else(default_from),
            transport,
            concurrency: self.read("mail.concurrency", concurrency).unwrap_or(MAIL_CONCURRENCY),
            rate: self.read("mail.rate", rate),
        }
    }

    /// The server's settings are checked whether it is used or not, but must be complete only where it is.
    fn smtp(&mut self, used: bool, insecure: bool) -> Option<Smtp> {
        let host = self.read("mail.host", host);
        let port = self.read("mail.port", |text| {
            text.parse::<NonZeroU16>()
                .map(NonZeroU16::get)
                .map_err(|_| format!("{text:?} is not a port from 1 to 65535"))
        });
        let tls_given = self.raw.take("mail.tls");
        let tls = tls_given.as_ref().and_then(|given| self.understand(given, tls)).unwrap_or(match port {
            Some(465) => Tls::Implicit,
            _ => Tls::StartTls,
        });
        let user = self.read("mail.user", |text| Ok(text.to_owned()));
        let variable = self.variable;
        let password = self.read("mail.password", |text| secret(text, variable));
        if !used {
            return None;
        }
        let Some(host) = host else {
            self.faults.push("mail.host: transport smtp needs a server: set mail.host or FANFARE_MAIL_HOST".to_owned());
            return None;
        };
        let this_machine = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if let (Some(Given { origin, .. }), Tls::Off, false, false) = (&tls_given, tls, this_machine, insecure) {
            self.faults.push(format!(
                "{origin}: without TLS anybody on the way to {host} could read the messages: use starttls or implicit, \
                 or pass --insecure"
            ));
        }
        let login = match (user, password) {
            (Some(user), Some(password)) => Some(Login { user, password }),
            (None, None) => None,
            _ => {
                self.faults.push("mail.user and mail.password belong together: set both or neither".to_owned());
                None
            }
        };
        let port = port.unwrap_or(match tls {
            Tls::Implicit => 465,
            Tls::StartTls => 587,
            Tls::Off => 25,
        });
        Some(Smtp { host, port, tls, login })
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Folder,
    Smtp,
    Off,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let wrong = || format!("{text:?} is not an address and port such as 127.0.0.1:8080 or [::1]:8080");
    numeric.as_deref().unwrap_or(text).parse().map_err(|_| wrong())
}

fn allowed_hosts(text: &str) -> Result<AllowedHosts, String> {
    let names: Vec<_> = text.split(',').map(|name| name.trim().to_ascii_lowercase()).collect();
    if names == ["*"] {
        return Ok(AllowedHosts::Any);
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':' | b'[' | b']');
    match names.iter().find(|name| name.is_empty() || !name.bytes().all(legal)) {
        Some(name) => Err(format!("{name:?} is not the name of a host; write names with commas between, or *")),
        None => Ok(AllowedHosts::Only(names)),
    }
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    one_of(text, &[("true", true), ("false", false)])
}

fn folder(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') { Err(format!("{text:?} is not a folder")) } else { Ok(text.into()) }
}

fn backend(text: &str) -> Result<BackendKind, String> {
    one_of(text, &[("embedded", BackendKind::Embedded), ("aws", BackendKind::Aws)])
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    one_of(text, &[("text", LogFormat::Text), ("json", LogFormat::Json)])
}

fn log_level(text: &str) -> Result<String, String> {
    let wrong = |error: &dyn Display| {
        format!("{text:?} is not a log level: use error, warn, info, debug, trace, or info,fanfare=debug ({error})")
    };
    // A bare word that is no level would otherwise be taken for the name of a module, and silence everything else.
    let bare_target = text.split(',').any(|part| !part.contains(['=', '[']) && !is_level(part.trim()));
    match EnvFilter::try_new(text) {
        Ok(_) if !bare_target => Ok(text.to_owned()),
        Ok(_) => Err(wrong(&"a name without a level")),
        Err(error) => Err(wrong(&error)),
    }
}

fn is_level(word: &str) -> bool {
    ["off", "error", "warn", "info", "debug", "trace"].iter().any(|level| level.eq_ignore_ascii_case(word))
}

fn tls(text: &str) -> Result<Tls, String> {
    one_of(text, &[("implicit", Tls::Implicit), ("starttls", Tls::StartTls), ("off", Tls::Off)])
}

fn host(text: &str) -> Result<String, String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':');
    if !text.is_empty() && text.len() <= 253 && text.bytes().all(legal) {
        return Ok(text.to_owned());
    }
    Err(format!("{:?} is not the name or the address of a server", without_login(text)))
}

fn mailbox(text: &str) -> Result<Mailbox, String> {
    text.parse().map_err(|_| format!("{text:?} is not a sender such as Shop <shop@example.com>"))
}

fn default_from() -> Mailbox {
    let address = lettre::Address::new("fanfare", "localhost");
    // The parts are constants that every version of the parser takes.
    #[allow(clippy::expect_used, reason = "constants")]
    Mailbox::new(Some("Fanfare".to_owned()), address.expect("fanfare@localhost is an address"))
}

fn concurrency(text: &str) -> Result<NonZeroUsize, String> {
    let wrong = || format!("{text:?} is not a number from 1 to {MAIL_CONCURRENCY_MAX}");
    text.parse().ok().filter(|given: &NonZeroUsize| given.get() <= MAIL_CONCURRENCY_MAX).ok_or_else(wrong)
}

fn rate(text: &str) -> Result<NonZeroU32, String> {
    let wrong = || format!("{text:?} is not a rate such as 50/s");
    text.strip_suffix("/s").and_then(|number| number.parse().ok()).ok_or_else(wrong)
}

/// `env:NAME` or `file:PATH`. The text is never repeated: it may be the secret itself, written in the wrong place.
fn secret(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    match text.split_once(':') {
        Some(("env", name)) => variable(name).ok_or_else(|| format!("the variable {name} is not set")),
        Some(("file", path)) => read_secret(path).map_err(|error| format!("{path}: {error}")),
        _ => Err("write where the password is found, not the password: env:NAME or file:PATH".to_owned()),
    }
}

fn read_secret(path: &str) -> std::io::Result<String> {
    Ok(file::read_text(path.as_ref(), SECRET_BYTES_MAX)?.trim_end_matches(['\r', '\n']).to_owned())
}

pub(super) fn one_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice).ok_or_else(|| {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        format!("{text:?} is not known here: use {}", words.join(" or "))
    })
}
