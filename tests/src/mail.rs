//! Where e-mail arrives: a folder of .eml files, or a server of one's own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

/// One e-mail as it arrived.
#[derive(Clone, Debug)]
pub struct Mail {
    raw: String,
}

impl Mail {
    /// The value of a header, unfolded.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let head = self.raw.split("\r\n\r\n").next()?.replace("\r\n ", " ").replace("\r\n\t", " ");
        let mut headers = head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    }

    #[must_use]
    pub fn contains(&self, text: &str) -> bool {
        self.raw.contains(text)
    }
}

/// The e-mails in a folder, in the order of their file names.
///
/// # Panics
/// If a file cannot be read, or is no .eml file.
#[must_use]
pub fn in_folder(folder: &Path) -> Vec<Mail> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "eml"));
    paths.sort();
    paths.iter().map(|path| Mail { raw: fs::read_to_string(path).expect("an e-mail") }).collect()
}

/// A mail server that takes everything, but for the first `refusals` e-mails, which it asks to be sent again later.
pub struct MailServer {
    address: SocketAddr,
    inbox: Arc<Mutex<Inbox>>,
}

#[derive(Default)]
struct Inbox {
    refusals: u32,
    mails: Vec<Mail>,
}

impl MailServer {
    /// # Panics
    /// If there is no free port.
    #[must_use]
    pub fn start(refusals: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let inbox = Arc::new(Mutex::new(Inbox { refusals, mails: Vec::new() }));
        let shared = Arc::clone(&inbox);
        // It ends with the test.
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let inbox = Arc::clone(&shared);
                // A client that hangs up in between has sent nothing.
                thread::spawn(move || converse(&connection, &inbox).ok());
            }
        });
        Self { address, inbox }
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has arrived so far.
    ///
    /// # Panics
    /// If the server did.
    #[must_use]
    pub fn mails(&self) -> Vec<Mail> {
        self.inbox.lock().expect("a sound inbox").mails.clone()
    }
}

/// The least of SMTP (RFC 5321): greeting, envelope, data.
fn converse(stream: &TcpStream, inbox: &Mutex<Inbox>) -> std::io::Result<()> {
    let mut out = stream;
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    out.write_all(b"220 mail.test ESMTP\r\n")?;
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "DATA" => {
                out.write_all(b"354 go on\r\n")?;
                let mail = read_data(&mut lines)?;
                let mut inbox = inbox.lock().expect("a sound inbox");
                if inbox.refusals > 0 {
                    inbox.refusals -= 1;
                    out.write_all(b"451 4.7.1 try again later\r\n")?;
                } else {
                    inbox.mails.push(mail);
                    out.write_all(b"250 2.0.0 taken\r\n")?;
                }
            }
            "QUIT" => return out.write_all(b"221 2.0.0 bye\r\n"),
            _ => out.write_all(b"250 mail.test\r\n")?,
        }
    }
}

/// Up to the line that is a full stop; a line that begins with one had another put before it.
fn read_data(lines: &mut impl BufRead) -> std::io::Result<Mail> {
    let mut raw = String::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 || line == ".\r\n" {
            return Ok(Mail { raw });
        }
        raw.push_str(line.strip_prefix('.').unwrap_or(&line));
    }
}
