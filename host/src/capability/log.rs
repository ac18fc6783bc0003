//! What a consumer says for people to read: `log.write`, stdout and stderr end in the host's log, bounded per event.

use std::borrow::Cow;
use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::backend::{Level, LogLine};
use crate::event::EventId;
use crate::policy::ConsumerName;

/// Lines of one event, whatever is in them; a guest in a loop must not fill the disk.
const LINES_MAX: u32 = 100;
const LINE_BYTES_MAX: usize = 4 << 10;
/// Of the last lines of an event, which a failed attempt keeps.
const KEPT_BYTES_MAX: usize = 8 << 10;

/// The log of one instance. Shared with the instance's stdout and stderr.
#[derive(Debug)]
pub struct GuestLog {
    /// `None` while a plugin describes itself: it has no name yet.
    consumer: Option<ConsumerName>,
    bytes_max: usize,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    event: Option<EventId>,
    lines: u32,
    bytes: usize,
    dropped: u64,
    /// Where languages put the words of a panic or an exception: see [`adds_nothing`].
    last_words: String,
    kept: Kept,
}

/// The last lines of an event, whatever became of those before.
#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<LogLine>,
    bytes: usize,
    let_go: u64,
}

impl Kept {
    fn push(&mut self, level: Level, text: String) {
        self.bytes += text.len();
        self.lines.push_back(LogLine { level, text });
        while self.lines.len() > LINES_MAX as usize || self.bytes > KEPT_BYTES_MAX {
            let Some(first) = self.lines.pop_front() else { return };
            self.bytes -= first.text.len();
            self.let_go += 1;
        }
    }

    fn clear(&mut self) {
        self.lines.clear();
        (self.bytes, self.let_go) = (0, 0);
    }
}

impl GuestLog {
    /// `bytes_max` of each event reach the host's log.
    pub fn new(consumer: Option<ConsumerName>, bytes_max: usize) -> Self {
        Self { consumer, bytes_max, now: Mutex::default() }
    }

    /// Counts from zero: the lines that follow belong to `event`.
    pub fn begin(&self, event: EventId) {
        let mut now = self.now.lock();
        now.event = Some(event);
        (now.lines, now.bytes, now.dropped) = (0, 0, 0);
        now.last_words.clear();
        now.kept.clear();
    }

    /// Ends the event, and says what was dropped. How many bytes reached the log.
    pub fn end(&self) -> usize {
        let now = self.now.lock();
        if now.dropped > 0 {
            let consumer = self.name();
            let event = now.event.map(tracing::field::display);
            tracing::warn!(target: "fanfare::consumer", consumer, event, dropped = now.dropped, "dropped log lines: at most {LINES_MAX} an event, of {} bytes in all (limits.log)", self.bytes_max);
        }
        now.bytes
    }

    /// The last lines of this event. They are taken once.
    pub fn take_kept(&self) -> Vec<LogLine> {
        let Kept { lines, let_go, .. } = std::mem::take(&mut self.now.lock().kept);
        let gap = (let_go > 0)
            .then(|| LogLine { level: Level::Warn, text: format!("({let_go} lines before these were not kept)") });
        gap.into_iter().chain(lines).collect()
    }

    pub fn write(&self, level: Level, line: &str) {
        let mut now = self.now.lock();
        let line = printable(cut(line, LINE_BYTES_MAX));
        now.kept.push(level, line.clone().into_owned());
        let bytes = now.bytes.saturating_add(line.len());
        if now.lines >= LINES_MAX || bytes > self.bytes_max {
            now.dropped += 1;
            return;
        }
        now.lines += 1;
        now.bytes = bytes;
        let consumer = self.name();
        let event = now.event.map(tracing::field::display);
        match level {
            Level::Debug => tracing::debug!(target: "fanfare::consumer", consumer, event, "{line}"),
            Level::Info => tracing::info!(target: "fanfare::consumer", consumer, event, "{line}"),
            Level::Warn => tracing::warn!(target: "fanfare::consumer", consumer, event, "{line}"),
            Level::Error => tracing::error!(target: "fanfare::consumer", consumer, event, "{line}"),
        }
    }

    /// A line on stderr.
    pub fn write_stderr(&self, line: &str) {
        self.write(Level::Warn, line);
        let mut now = self.now.lock();
        // What is indented (a frame, the two sides of an assertion) belongs to the line above.
        let belongs = line.starts_with([' ', '\t']) && !now.last_words.is_empty();
        if belongs || adds_nothing(line) {
            return;
        }
        now.last_words.clear();
        now.last_words.push_str(cut(line, LINE_BYTES_MAX));
    }

    /// The last line on stderr of this event that says something, if there was one.
    pub fn last_words(&self) -> Option<String> {
        let now = self.now.lock();
        (!now.last_words.is_empty()).then(|| now.last_words.clone())
    }

    fn name(&self) -> &str {
        self.consumer.as_ref().map_or("(describing)", ConsumerName::as_str)
    }
}

/// How runtimes end after the words of what ended them: Rust, then Python (componentize-py) and JavaScript (ComponentizeJS).
const EPILOGUES: [&str; 4] = [
    "note: run with `RUST_BACKTRACE=",
    "Python function threw an unexpected exception",
    "Stack:",
    "Redirecting call to abort()",
];

/// Whether a line on stderr says nothing of why a guest ended: no words at all, or those that its runtime ends with each time.
fn adds_nothing(line: &str) -> bool {
    !line.contains(char::is_alphanumeric)
        || EPILOGUES.iter().any(|epilogue| line.starts_with(epilogue))
        // componentize-py itself, about an exception that was told above.
        || line.starts_with("thread '") && line.contains(" panicked at runtime/src/lib.rs:")
}

/// At most `max` bytes of `text`, cut between characters.
pub(super) fn cut(text: &str, max: usize) -> &str {
    if text.len() <= max { text } else { text.get(..text.floor_char_boundary(max)).unwrap_or_default() }
}

/// One line: a guest must not write what looks like lines of the host, or steer a terminal.
fn printable(line: &str) -> Cow<'_, str> {
    if !line.contains(char::is_control) {
        return line.into();
    }
    let mut shown = String::with_capacity(line.len() + 8);
    for letter in line.chars() {
        if letter.is_control() { shown.extend(letter.escape_default()) } else { shown.push(letter) }
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line_and_steers_no_terminal() {
        assert_eq!(printable("Grüße"), "Grüße");
        assert_eq!(printable("a\nERROR b\u{1b}[2J"), r"a\nERROR b\u{1b}[2J");
    }

    #[test]
    fn a_line_is_cut_between_characters() {
        assert_eq!(cut("aü", 2), "a");
        assert_eq!(cut("aü", 3), "aü");
    }

    #[test]
    fn the_last_words_belong_to_their_event() {
        let log = GuestLog::new(None, BYTES_MAX);
        log.begin(EventId::generate());
        log.write_stderr("panicked at src/lib.rs:1:1");
        log.write_stderr("note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace");
        log.write(Level::Info, "something else");
        assert_eq!(log.last_words().as_deref(), Some("panicked at src/lib.rs:1:1"));
        log.begin(EventId::generate());
        assert_eq!(log.last_words(), None);
    }

    /// As toolchains of Rust, Python and JavaScript end a guest.
    #[test]
    fn the_last_words_are_those_of_the_fault_in_every_language() {
        let told = |stderr: &str| {
            let log = GuestLog::new(None, BYTES_MAX);
            log.begin(EventId::generate());
            stderr.lines().for_each(|line| log.write_stderr(line));
            log.last_words()
        };
        let note = "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace";
        let rust = format!(
            "thread '<unnamed>' (1) panicked at src/lib.rs:7:9:\nassertion `left == right` failed: the sum\n  left: 1\n right: 2\n{note}\n"
        );
        assert_eq!(told(&rust).as_deref(), Some("assertion `left == right` failed: the sum"));
        let python = format!(
            "Traceback (most recent call last):\n  File \"/0/app.py\", line 22, in handle\nKeyError: 'missing'\n\n\
             thread '<unnamed>' (1) panicked at runtime/src/lib.rs:1293:29:\nPython function threw an unexpected exception\n{note}\n"
        );
        assert_eq!(told(&python).as_deref(), Some("KeyError: 'missing'"));
        let javascript = "TypeError: can't access property \"missing\" of undefined\nStack:\n  handle@hello.js:5:17\n\n\
             Redirecting call to abort() to mozalloc_abort\n\n";
        assert_eq!(told(javascript).as_deref(), Some("TypeError: can't access property \"missing\" of undefined"));
        assert_eq!(
            told("Failed(\nException { message: Some(\"gone\") }\n)\n").as_deref(),
            Some("Exception { message: Some(\"gone\") }")
        );
        assert_eq!(told("  indented, and alone\n").as_deref(), Some("  indented, and alone"));
        assert_eq!(told("\n)\n"), None);
    }

    const BYTES_MAX: usize = 1 << 20;

    #[test]
    fn bytes_beyond_the_limit_are_counted_and_dropped() {
        let log = GuestLog::new(None, 10);
        log.begin(EventId::generate());
        for line in ["four", "5 5 5", "none", ""] {
            log.write(Level::Info, line);
        }
        assert_eq!(log.now.lock().dropped, 1);
        assert_eq!(log.end(), 9);
    }

    #[test]
    fn lines_beyond_the_limit_are_counted_and_the_next_event_has_its_own() {
        let log = GuestLog::new(None, BYTES_MAX);
        log.begin(EventId::generate());
        for _ in 0..LINES_MAX + 7 {
            log.write(Level::Info, "again");
        }
        assert_eq!(log.now.lock().dropped, 7);
        log.begin(EventId::generate());
        let now = log.now.lock();
        assert_eq!((now.dropped, now.lines), (0, 0));
    }

    #[test]
    fn the_last_lines_are_kept_for_a_failed_attempt_and_no_longer() {
        let log = GuestLog::new(None, BYTES_MAX);
        log.begin(EventId::generate());
        log.write(Level::Info, "first");
        log.write_stderr("second");
        let line = |level, text: &str| LogLine { level, text: text.to_owned() };
        assert_eq!(log.take_kept(), [line(Level::Info, "first"), line(Level::Warn, "second")]);
        log.write(Level::Info, "of an event that is over");
        log.begin(EventId::generate());
        assert_eq!(log.take_kept(), []);
    }

    #[test]
    fn of_many_or_long_lines_the_last_ones_are_kept_and_the_others_counted() {
        for (lines, line) in [(LINES_MAX as usize * 30, "short".to_owned()), (9, "l".repeat(LINE_BYTES_MAX))] {
            let log = GuestLog::new(None, BYTES_MAX);
            log.begin(EventId::generate());
            for _ in 0..lines {
                log.write(Level::Debug, &line);
            }
            log.write(Level::Error, "the end");
            let kept = log.take_kept();
            assert!(kept.iter().map(|line| line.text.len()).sum::<usize>() <= KEPT_BYTES_MAX + 64);
            assert_eq!(kept.last().unwrap().text, "the end");
            let let_go = lines + 1 - (kept.len() - 1);
            assert_eq!(kept[0].text, format!("({let_go} lines before these were not kept)"));
        }
    }
}
