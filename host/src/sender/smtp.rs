//! Mail to an SMTP server, over a pool of connections.

use std::num::NonZeroUsize;
use std::time::Duration;

use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls as Encryption, TlsParameters};
use lettre::transport::smtp::{self, PoolConfig};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message as Email, Tokio1Executor};

use super::Error;
use crate::backend::{AGAIN_MAX, Parcel, Sending};
use crate::clock::Timestamp;
use crate::config::{Smtp, Tls};

/// A server that is silent for this long has hung up.
const REPLY_TIME_MAX: Duration = Duration::from_secs(30);
const AGAIN_BASE: Duration = Duration::from_secs(5);
/// RFC 5321, section 4.5.4.1, asks for some days; who waits for news of an order gives up no later.
const AGE_MAX: Duration = Duration::from_secs(3 * 24 * 3600);
/// Answers about the login, not about the message: a password set right later sends it.
const LOGIN_CODES: [u16; 4] = [530, 534, 535, 538];

pub(super) struct Server {
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

impl Server {
    pub(super) fn new(smtp: &Smtp, connections: NonZeroUsize) -> Result<Self, Error> {
        let encryption = match smtp.tls {
            Tls::Implicit => Encryption::Wrapper(TlsParameters::new(smtp.host.clone())?),
            Tls::StartTls => Encryption::Required(TlsParameters::new(smtp.host.clone())?),
            Tls::Off => Encryption::None,
        };
        let connections = u32::try_from(connections.get()).unwrap_or(u32::MAX);
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(smtp.host.clone())
            .port(smtp.port)
            .tls(encryption)
            .timeout(Some(REPLY_TIME_MAX))
            .pool_config(PoolConfig::new().max_size(connections));
        if let Some(login) = &smtp.login {
            builder = builder.credentials(Credentials::new(login.user.clone(), login.password.clone()));
        }
        Ok(Self { transport: builder.build() })
    }

    pub(super) async fn send(&self, parcel: &Parcel, mail: Email) -> Sending {
        match self.transport.send(mail).await {
            Ok(_) => Sending::Sent,
            Err(error) => judge(parcel, &error),
        }
    }
}

fn judge(parcel: &Parcel, error: &smtp::Error) -> Sending {
    let code = error.status().map(u16::from);
    let about_login = code.is_some_and(|code| LOGIN_CODES.contains(&code));
    if error.is_permanent() && !about_login {
        return Sending::Failed { error: error.to_string() };
    }
    // No answer at all: the server may have taken the message before the connection broke off.
    let broke_off = code.is_none() && !error.is_client() && !error.is_tls();
    later(parcel, error.to_string(), broke_off)
}

/// What becomes of a try that may succeed later: back-off doubling from five seconds, half of it by chance, so that
/// messages that failed together do not come back together.
pub(super) fn later(parcel: &Parcel, error: String, broke_off: bool) -> Sending {
    let now = Timestamp::now();
    if now.since(parcel.time) > AGE_MAX {
        let error = format!("given up after three days: {error}");
        return if broke_off { Sending::Unknown { error } } else { Sending::Failed { error } };
    }
    let doubled = AGAIN_BASE.saturating_mul(1_u32.checked_shl(parcel.attempts).unwrap_or(u32::MAX));
    let wait = doubled.min(AGAIN_MAX).mul_f64(0.5 + 0.5 * fastrand::f64());
    Sending::Again { at: now.plus(wait), error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::Message;

    fn parcel(attempts: u32, age: Duration) -> Parcel {
        let message = Message::Sms { to: String::new(), text: String::new() };
        let now = Timestamp::now().as_millis();
        let time = Timestamp::from_millis(now - u64::try_from(age.as_millis()).unwrap());
        Parcel { id: "1".into(), message_id: String::new(), message, attempts, time }
    }

    #[test]
    fn waits_grow_and_end_at_the_cap() {
        for (attempts, wait_max) in [(0, 5), (1, 10), (5, 160), (40, 1800), (u32::MAX, 1800)] {
            let Sending::Again { at, .. } = later(&parcel(attempts, Duration::ZERO), String::new(), false) else {
                panic!("gave up at attempt {attempts}");
            };
            let wait = at.since(Timestamp::now()).as_secs_f64();
            let wait_max = f64::from(wait_max);
            assert!(wait <= wait_max && wait >= wait_max / 2.0 - 1.0, "{attempts}: {wait}");
        }
    }

    #[test]
    fn after_three_days_it_is_failed_or_unknown() {
        let old = parcel(3, AGE_MAX + Duration::from_secs(1));
        assert!(matches!(later(&old, "451".into(), false), Sending::Failed { .. }));
        assert!(matches!(later(&old, "broke off".into(), true), Sending::Unknown { .. }));
    }
}
