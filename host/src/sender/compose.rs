//! From a message that a guest staged to an RFC 5322 mail. The guest chose every text in it.

use std::time::{Duration, UNIX_EPOCH};

use lettre::Message as Email;
use lettre::message::{Mailbox, MultiPart, SinglePart};

use crate::backend::Parcel;
use crate::effects::Message;

/// RFC 5321 allows 64 bytes, `@` and 255; a display name may stand before it.
const RECIPIENT_BYTES_MAX: usize = 512;
/// What is quoted of a wrong address in an error.
const QUOTED_CHARS_MAX: usize = 80;

pub(super) struct Composer {
    from: Mailbox,
}

impl Composer {
    pub(super) fn new(from: Mailbox) -> Self {
        Self { from }
    }

    /// The e-mail of `parcel`: the same Message-ID and date at every try.
    ///
    /// # Errors
    /// Why it can never be sent, in words.
    pub(super) fn compose(&self, parcel: &Parcel) -> Result<Email, String> {
        let Message::Email { to, subject, text, html } = &parcel.message else {
            return Err("this is no e-mail".to_owned());
        };
        let date = UNIX_EPOCH + Duration::from_millis(parcel.time.as_millis());
        let builder = Email::builder()
            .from(self.from.clone())
            .to(recipient(to)?)
            .subject(one_line(subject))
            .date(date)
            .message_id(Some(format!("<{}@{}>", safe_name(&parcel.message_id), self.from.email.domain())));
        let composed = match html {
            Some(html) => builder.multipart(MultiPart::alternative_plain_html(text.clone(), html.clone())),
            None => builder.singlepart(SinglePart::plain(text.clone())),
        };
        composed.map_err(|error| format!("it cannot be put into a mail: {error}"))
    }
}

fn recipient(to: &str) -> Result<Mailbox, String> {
    let legal = to.len() <= RECIPIENT_BYTES_MAX && !to.chars().any(char::is_control);
    let mailbox = if legal { to.parse().ok() } else { None };
    mailbox.ok_or_else(|| {
        let quoted: String = to.chars().take(QUOTED_CHARS_MAX).collect();
        format!("{quoted:?} is not an e-mail address")
    })
}

/// A line break in a header would begin the next header.
fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// `text` as a part of file names and Message-IDs: letters, digits, `-`, `_` and `.` stay, other bytes are written
/// as `=XX`, so that two ids never become the same name. It never starts with a dot.
pub(super) fn safe_name(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for (index, byte) in text.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || (byte == b'.' && index > 0);
        if plain {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("={byte:02X}"));
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Timestamp;

    fn parcel(to: &str, subject: &str, text: &str, html: Option<&str>) -> Parcel {
        let message =
            Message::Email { to: to.into(), subject: subject.into(), text: text.into(), html: html.map(Into::into) };
        let time = Timestamp::from_millis(1_795_341_600_000);
        Parcel { id: "1".into(), message_id: "0198.0.notification".into(), message, attempts: 0, time }
    }

    fn composed(parcel: &Parcel) -> Result<String, String> {
        let composer = Composer::new("Shop <shop@example.com>".parse().unwrap());
        composer.compose(parcel).map(|mail| String::from_utf8(mail.formatted()).unwrap())
    }

    /// Header lines, unfolded, up to the empty line.
    fn headers(mail: &str) -> Vec<String> {
        let head = mail.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ");
        head.split("\r\n").map(|line| line.split(':').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_plain_mail_has_stable_id_and_date() {
        let mail = composed(&parcel("ann@example.org", "Your order", "Thank you.", None)).unwrap();
        insta::assert_snapshot!(mail.replace("\r\n", "\n"), @r"
        From: Shop <shop@example.com>
        To: ann@example.org
        Subject: Your order
        Date: Sun, 22 Nov 2026 10:00:00 +0000
        Message-ID: <0198.0.notification@example.com>
        MIME-Version: 1.0
        Content-Type: text/plain; charset=utf-8
        Content-Transfer-Encoding: 7bit

        Thank you.
        ");
    }

    #[test]
    fn text_and_html_are_alternatives() {
        let mail = composed(&parcel("ann@example.org", "Grüße", "plain", Some("<b>rich</b>"))).unwrap();
        assert!(mail.contains("Content-Type: multipart/alternative;"), "{mail}");
        assert!(mail.contains("Subject: =?utf-8?b?"), "{mail}");
        let plain_at = mail.find("text/plain").unwrap();
        assert!(plain_at < mail.find("text/html").unwrap(), "the last alternative is the preferred one");
    }

    #[test]
    fn an_address_that_is_none_is_refused_with_the_address() {
        for to in ["", "ann", "ann@", "a@b.c, d@e.f", "ann@example.org\r\nBcc: all@example.org", "ann@exa mple.org"] {
            let error = composed(&parcel(to, "x", "x", None)).unwrap_err();
            assert!(error.contains("is not an e-mail address"), "{to:?}: {error}");
        }
    }

    #[test]
    fn a_line_break_in_the_subject_begins_no_header() {
        let mail = composed(&parcel("ann@example.org", "Hi\r\nBcc: all@example.org\r\n\r\nbody", "x", None)).unwrap();
        let expected = [
            "From",
            "To",
            "Subject",
            "Date",
            "Message-ID",
            "MIME-Version",
            "Content-Type",
            "Content-Transfer-Encoding",
        ];
        assert_eq!(headers(&mail), expected);
    }

    #[test]
    fn a_name_leaves_the_folder_never() {
        assert_eq!(safe_name("../../etc/passwd"), "=2E.=2F..=2Fetc=2Fpasswd");
        assert_eq!(safe_name("0198.0.loyalty"), "0198.0.loyalty");
    }

    proptest! {
        #[test]
        fn whatever_a_guest_writes_the_headers_are_ours(to in "\\PC*|.*@.*", subject in any::<String>(), text in any::<String>()) {
            if let Ok(mail) = composed(&parcel(&to, &subject, &text, None)) {
                let names = headers(&mail);
                prop_assert_eq!(&names[..5], &["From", "To", "Subject", "Date", "Message-ID"]);
                prop_assert_eq!(names.len(), 8);
            }
        }
    }
}
