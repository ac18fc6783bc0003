use std::collections::VecDeque;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::*;
use crate::backend;
use crate::clock::Timestamp;
use crate::config::{Smtp, Tls};

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_server_decides_what_becomes_of_each_message() {
    let server = MailServer::start().await;
    let store = Store::with(["yes@x.test", "later@x.test", "never@x.test", "gone@x.test", "not an address"]);
    let mail = mail(Transport::Smtp(Smtp { host: "127.0.0.1".into(), port: server.port, tls: Tls::Off, login: None }));
    let sender = Sender::start(store.clone(), &mail, &Handle::current()).unwrap();
    store.settled(5).await;
    sender.stop().await;

    assert!(matches!(store.outcome(0), Sending::Sent));
    assert!(matches!(store.outcome(1), Sending::Again { error, .. } if error.contains("come back")));
    assert!(matches!(store.outcome(2), Sending::Failed { error } if error.contains("no such person")));
    assert!(matches!(store.outcome(3), Sending::Again { .. }));
    assert!(matches!(store.outcome(4), Sending::Failed { error } if error.contains("is not an e-mail address")));
    let taken = server.taken.lock().clone();
    assert_eq!(taken.len(), 1);
    assert!(taken[0].contains("Message-ID: <event.0.notification@example.com>"), "{}", taken[0]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_asked_again_later() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let store = Store::with(["yes@x.test"]);
    let mail = mail(Transport::Smtp(Smtp { host: "127.0.0.1".into(), port, tls: Tls::Off, login: None }));
    let sender = Sender::start(store.clone(), &mail, &Handle::current()).unwrap();
    store.settled(1).await;
    sender.stop().await;
    assert!(matches!(store.outcome(0), Sending::Again { .. }));
}

#[tokio::test]
async fn a_folder_gets_one_file_a_message() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::with(["ann@x.test", "bob@x.test", "nobody"]);
    let mail = mail(Transport::Folder(folder.path().join("mail")));
    let sender = Sender::start(store.clone(), &mail, &Handle::current()).unwrap();
    store.settled(3).await;
    sender.stop().await;

    let read = |name: &str| std::fs::read_to_string(folder.path().join("mail").join(name)).unwrap();
    assert!(read("event.0.notification.eml").contains("To: ann@x.test"));
    assert!(read("event.1.notification.eml").contains("To: bob@x.test"));
    assert_eq!(std::fs::read_dir(folder.path().join("mail")).unwrap().count(), 2);
    assert!(matches!(store.outcome(2), Sending::Failed { .. }));
}

#[tokio::test]
async fn an_sms_fails_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::with([]);
    store.state.lock().due.push_back(parcel(0, Message::Sms { to: "+4930123456".into(), text: "hi".into() }));
    let sender = Sender::start(store.clone(), &mail(Transport::Folder(folder.path().into())), &Handle::current());
    store.settled(1).await;
    sender.unwrap().stop().await;
    assert!(matches!(store.outcome(0), Sending::Failed { error } if error.contains("no transport for SMS")));
}

#[tokio::test]
async fn with_mail_off_messages_stay_pending() {
    let store = Store::with(["ann@x.test"]);
    let sender = Sender::start(store.clone(), &mail(Transport::Off), &Handle::current()).unwrap();
    sender.stop().await;
    assert_eq!(store.state.lock().due.len(), 1);
}

#[tokio::test]
async fn what_the_store_did_not_record_is_recorded_later_and_sent_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::with(["ann@x.test"]);
    store.state.lock().refusals = 3;
    let sender = Sender::start(store.clone(), &mail(Transport::Folder(folder.path().into())), &Handle::current());
    store.settled(1).await;
    sender.unwrap().stop().await;
    assert_eq!(store.state.lock().settled.len(), 1);
}

#[tokio::test]
async fn a_rate_spreads_messages_over_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::with(["a@x.test", "b@x.test", "c@x.test", "d@x.test", "e@x.test"]);
    let mail = Mail { rate: NonZeroU32::new(100), ..mail(Transport::Folder(folder.path().into())) };
    let start = Instant::now();
    let sender = Sender::start(store.clone(), &mail, &Handle::current()).unwrap();
    store.settled(5).await;
    sender.stop().await;
    assert!(start.elapsed() >= Duration::from_millis(40), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_rate_holds_for_messages_that_come_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::with(["a@x.test", "b@x.test", "c@x.test", "d@x.test", "e@x.test"]);
    store.state.lock().at_once = Some(1);
    let mail = Mail { rate: NonZeroU32::new(100), ..mail(Transport::Folder(folder.path().into())) };
    let start = Instant::now();
    let sender = Sender::start(store.clone(), &mail, &Handle::current()).unwrap();
    store.settled(5).await;
    sender.stop().await;
    assert!(start.elapsed() >= Duration::from_millis(40), "{:?}", start.elapsed());
}

fn mail(transport: Transport) -> Mail {
    let concurrency = NonZeroUsize::new(2).unwrap();
    Mail { from: "Shop <shop@example.com>".parse().unwrap(), transport, concurrency, rate: None }
}

fn parcel(id: i64, message: Message) -> Parcel {
    Parcel {
        id: id.to_string().into(),
        message_id: format!("event.{id}.notification"),
        message,
        attempts: 0,
        time: Timestamp::now(),
    }
}

/// A store that holds messages in memory.
struct Store {
    state: Mutex<StoreState>,
    changed: Notify,
}

#[derive(Default)]
struct StoreState {
    due: VecDeque<Parcel>,
    settled: Vec<(ParcelId, Sending)>,
    /// How often `settle` will be refused.
    refusals: u32,
    /// So many are due at once, however many there are.
    at_once: Option<usize>,
}

impl Store {
    fn with<const N: usize>(recipients: [&str; N]) -> Arc<Self> {
        let email = |(id, to): (i64, &str)| {
            parcel(id, Message::Email { to: to.into(), subject: "Order".into(), text: "Thanks".into(), html: None })
        };
        let due = (0..).zip(recipients).map(email).collect();
        Arc::new(Self { state: Mutex::new(StoreState { due, ..StoreState::default() }), changed: Notify::new() })
    }

    async fn settled(&self, count: usize) {
        let wait = async {
            while self.state.lock().settled.len() < count {
                self.changed.notified().await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap();
    }

    fn outcome(&self, id: i64) -> Sending {
        self.state.lock().settled.iter().find(|(of, _)| **of == *id.to_string()).unwrap().1.clone()
    }
}

#[async_trait]
impl Outgoing for Store {
    async fn due(&self, limit: usize) -> backend::Result<Vec<Parcel>> {
        let due: Vec<_> = {
            let mut state = self.state.lock();
            let count = limit.min(state.due.len()).min(state.at_once.unwrap_or(usize::MAX));
            state.due.drain(..count).collect()
        };
        if due.is_empty() {
            std::future::pending::<()>().await;
        }
        Ok(due)
    }

    async fn settle(&self, sent: Vec<(ParcelId, Sending)>) -> backend::Result<()> {
        let mut state = self.state.lock();
        if state.refusals > 0 {
            state.refusals -= 1;
            return Err(backend::Error::Unavailable("the disk is full".into()));
        }
        state.settled.extend(sent);
        self.changed.notify_one();
        Ok(())
    }
}

/// Speaks just enough SMTP; the recipient decides the answer.
struct MailServer {
    port: u16,
    taken: Arc<Mutex<Vec<String>>>,
    accepting: JoinHandle<()>,
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl MailServer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&taken);
        let accepting = tokio::spawn(async move {
            let mut talks = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                talks.spawn(talk(stream, Arc::clone(&into)));
            }
        });
        Self { port, taken, accepting }
    }
}

async fn talk(stream: TcpStream, taken: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 mail.test\r\n").await?;
    let mut hang_up = false;
    while let Some(line) = lines.next_line().await? {
        let reply: &[u8] = match line.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" => b"250 mail.test\r\n",
            "RCPT" if line.contains("later@") => b"451 come back\r\n",
            "RCPT" if line.contains("never@") => b"550 no such person\r\n",
            "RCPT" => {
                hang_up = line.contains("gone@");
                b"250 ok\r\n"
            }
            "DATA" => {
                write.write_all(b"354 go on\r\n").await?;
                let mut text = String::new();
                while let Some(line) = lines.next_line().await?.filter(|line| line != ".") {
                    text.push_str(&line);
                    text.push('\n');
                }
                if hang_up {
                    return Ok(());
                }
                taken.lock().push(text);
                b"250 taken\r\n"
            }
            "QUIT" => b"221 bye\r\n",
            _ => b"250 ok\r\n",
        };
        write.write_all(reply).await?;
    }
    Ok(())
}

#[test]
fn the_default_folder_is_made_where_it_is_missing() {
    let data = tempfile::tempdir().unwrap();
    let deep = data.path().join("a/b/mail");
    folder::Folder::open(Path::new(&deep)).unwrap();
    assert!(deep.is_dir());
}
