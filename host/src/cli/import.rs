//! `fanfare orders import`: many orders, one a line, in requests of a bounded number of lines.
//!
//! Whole files are never held. Each request is answered before the next is sent, so a lost connection leaves at most
//! one request in doubt, and running the same import again settles it: orders are known by their reference.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::Failure;
use super::client::{Client, Payload};
use super::failure::Problem;
use super::print::{Output, field, set, text, visible};

/// Answers come one a line and are read after the request was sent: few enough to wait in the buffers between.
const LINES_PER_REQUEST: usize = 200;
const BYTES_PER_REQUEST: usize = 4 << 20;
/// Twice what one order may be; the host says what is too long, this only bounds memory.
const LINE_BYTES_MAX: u64 = 512 << 10;
/// Errors that are printed one by one.
const ERRORS_SHOWN_MAX: usize = 20;

#[derive(Args, Debug)]
pub struct Import {
    /// A file with one order a line, or - for standard input.
    file: PathBuf,
}

#[derive(Default)]
struct Tally {
    lines: u64,
    created: u64,
    exists: u64,
    errors: u64,
    shown: Vec<Value>,
}

impl Import {
    pub fn run(&self, client: &Client, output: &Output) -> Result<(), Failure> {
        let (input, bytes) = open(&self.file)?;
        let mut input = BufReader::with_capacity(1 << 16, input);
        skip_mark(&mut input).map_err(|error| unreadable(&self.file, &error))?;
        let bar = progress(bytes, output);
        let mut tally = Tally::default();
        let mut sent = 0_u64;
        loop {
            let read = read_chunk(&mut input).map_err(|error| unreadable(&self.file, &error));
            let sending = read.and_then(|(lines, chunk)| {
                if lines > 0 {
                    send(client, &chunk, sent, &mut tally)?;
                }
                Ok((lines, chunk))
            });
            let (lines, chunk) = match sending {
                Ok((0, _)) => break,
                Ok(sent) => sent,
                Err(failure) => {
                    bar.abandon();
                    return Err(interrupted(failure, sent, &tally));
                }
            };
            sent += lines;
            bar.inc(chunk.len() as u64);
            bar.set_message(format!("{sent} orders"));
        }
        bar.finish_and_clear();
        tally.show(output);
        if tally.errors > 0 {
            let hint = if tally.errors == tally.lines { ": does each line hold one whole order?" } else { "" };
            return Err(Failure::Failed(format!("{} of {} lines were not imported{hint}", tally.errors, tally.lines)));
        }
        Ok(())
    }
}

impl Tally {
    fn count(&mut self, mut result: Value, lines_before: u64) {
        self.lines += 1;
        match result.get("result").and_then(Value::as_str) {
            Some("created") => self.created += 1,
            Some("exists") => self.exists += 1,
            _ => {
                self.errors += 1;
                renumber(&mut result, lines_before);
                if self.shown.len() < ERRORS_SHOWN_MAX {
                    self.shown.push(result);
                }
            }
        }
    }

    fn show(&self, output: &Output) {
        let Self { lines, created, exists, errors, shown } = self;
        let value =
            json!({"lines": lines, "created": created, "exists": exists, "errors": errors, "first_errors": shown});
        output.show(&value, |_| {
            let mut summary = format!("{lines} lines: {created} created, {exists} existed, {errors} errors");
            for error in shown {
                let problem = serde_json::from_value::<Problem>(field(error, "problem").clone());
                let problem = problem.map_or_else(|_| text(error, "/problem"), |problem| problem.to_string());
                summary.push_str(&format!("\n  line {}: {}", text(error, "/line"), visible(&problem)));
            }
            if *errors > shown.len() as u64 {
                summary.push_str("\n  …");
            }
            summary
        });
    }
}

/// The host counts the lines of one request; people count those of their file.
fn renumber(result: &mut Value, lines_before: u64) {
    let Some(line) = result.get("line").and_then(Value::as_u64) else { return };
    set(result, "line", json!(lines_before + line));
    let Some(problem) = result.get_mut("problem") else { return };
    if problem.get("line").is_some() {
        set(problem, "line", json!(lines_before + line));
    }
    // The line stands before the problem already.
    let detail = text(problem, "/detail").replace(&format!(", at line {line}, column"), ", at column");
    set(problem, "detail", json!(detail));
}

/// The bytes of a file or of standard input.
///
/// # Errors
/// Where they cannot be read, or are more than `bytes_max`.
pub fn read_input(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let (input, _) = open(path)?;
    let mut bytes = Vec::new();
    let mut input = BufReader::new(input);
    skip_mark(&mut input).map_err(|error| unreadable(path, &error))?;
    input.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Failure::Usage(format!("{}: more than the {bytes_max} bytes that this takes", path.display())));
    }
    Ok(bytes)
}

fn open(path: &Path) -> Result<(Box<dyn Read>, Option<u64>), Failure> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
    if metadata.is_dir() {
        return Err(Failure::Usage(format!("{} is a directory: name a file, or - for standard input", path.display())));
    }
    Ok((Box::new(file), Some(metadata.len())))
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::Usage(format!("{}: {error}", path.display()))
}

/// Passes by what programs on Windows put before a text in UTF-8.
fn skip_mark(input: &mut impl BufRead) -> io::Result<()> {
    const MARK: &[u8] = "\u{feff}".as_bytes();
    if input.fill_buf()?.starts_with(MARK) {
        input.consume(MARK.len());
    }
    Ok(())
}

/// The next lines, and how many they are. Of one that is longer than any order, so much that the host refuses it as that line.
fn read_chunk(input: &mut impl BufRead) -> io::Result<(u64, Vec<u8>)> {
    let mut chunk = Vec::new();
    let mut lines = 0;
    while lines < LINES_PER_REQUEST && chunk.len() < BYTES_PER_REQUEST {
        let before = chunk.len();
        if input.take(LINE_BYTES_MAX).read_until(b'\n', &mut chunk)? == 0 {
            break;
        }
        if chunk.last() != Some(&b'\n') {
            if (chunk.len() - before) as u64 == LINE_BYTES_MAX {
                skip_line(input)?;
            }
            chunk.push(b'\n');
        }
        lines += 1;
    }
    Ok((lines as u64, chunk))
}

/// Passes by what is left of a line.
fn skip_line(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let piece = input.fill_buf()?;
        let (passed, ended) = match piece.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (piece.len(), piece.is_empty()),
        };
        input.consume(passed);
        if ended {
            return Ok(());
        }
    }
}

fn send(client: &Client, chunk: &[u8], lines_before: u64, tally: &mut Tally) -> Result<(), Failure> {
    let payload = Payload { media_type: "application/x-ndjson", bytes: chunk, idempotency_key: None };
    let orders = chunk.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
    count_results(client.post_for_lines("/v1/orders:import", payload)?, orders, lines_before, tally)
}

/// Counts what became of `orders` lines.
///
/// # Errors
/// Where some were not taken for a reason that is the host's (it stops, its disk is full), or nothing was said of them: they
/// would be taken for done otherwise, or for wrong.
fn count_results(
    answer: impl Iterator<Item = Result<String, Failure>>,
    orders: usize,
    lines_before: u64,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let (mut told, mut refused) = (0, None);
    for line in answer {
        let line = line?;
        if line.is_empty() {
            continue;
        }
        let result = serde_json::from_str(&line)
            .map_err(|error| Failure::Failed(format!("the host answered what is no JSON: {error}")))?;
        told += 1;
        match not_now(&result) {
            Some(problem) => drop(refused.get_or_insert(problem)),
            None => tally.count(result, lines_before),
        }
    }
    match refused {
        Some(problem) => Err(Failure::Unavailable(format!("the host does not accept now: {problem}"))),
        None if told < orders => {
            Err(Failure::Unavailable(format!("the host ended after {told} of the {orders} orders that it was sent")))
        }
        None => Ok(()),
    }
}

/// Why an order was not taken that may be taken later.
fn not_now(result: &Value) -> Option<Problem> {
    let problem: Problem = serde_json::from_value(result.get("problem")?.clone()).ok()?;
    Some(problem).filter(|problem| matches!(problem.status, 429 | 503))
}

fn interrupted(failure: Failure, sent: u64, tally: &Tally) -> Failure {
    let resume = format!(
        "the import stopped after {sent} lines ({} created, {} existed, {} errors): run the same command again to \
         resume; orders with a reference are not placed twice",
        tally.created, tally.exists, tally.errors
    );
    match failure {
        Failure::Unavailable(what) => Failure::Unavailable(format!("{what}\n{resume}")),
        Failure::Failed(what) => Failure::Failed(format!("{what}\n{resume}")),
        Failure::Usage(what) if sent > 0 => Failure::Failed(format!("{what}\n{resume}")),
        other => other,
    }
}

fn progress(bytes: Option<u64>, output: &Output) -> ProgressBar {
    let template = match bytes {
        Some(_) => "{bar:40} {bytes}/{total_bytes} {msg} ({eta} left)",
        None => "{spinner} {bytes} {msg}",
    };
    let bar = output.progress(bytes, template);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_whole_lines_and_end_with_one() {
        let text: String = (0..450).map(|n| format!("{{\"reference\":\"{n}\"}}\n")).collect();
        let mut input = text.trim_end().as_bytes();
        let mut sizes = Vec::new();
        let mut joined = Vec::new();
        loop {
            let (lines, chunk) = read_chunk(&mut input).unwrap();
            if lines == 0 {
                break;
            }
            assert_eq!(chunk.last(), Some(&b'\n'));
            sizes.push(lines);
            joined.extend(chunk);
        }
        assert_eq!(sizes, [200, 200, 50]);
        assert_eq!(joined, text.as_bytes());
    }

    #[test]
    fn of_a_line_that_is_too_long_the_host_gets_the_beginning_and_the_next_one_whole() {
        let mut text = b"{}\n".to_vec();
        text.resize(2 << 20, b'x');
        text.extend_from_slice(b"\n{\"a\":1}\n");
        let mut input = BufReader::with_capacity(1 << 10, text.as_slice());
        let (lines, chunk) = read_chunk(&mut input).unwrap();
        let lengths: Vec<_> = chunk.split(|byte| *byte == b'\n').map(<[u8]>::len).collect();
        assert_eq!((lines, lengths), (3, vec![2, LINE_BYTES_MAX as usize, 7, 0]));

        let endless = vec![b'x'; 2 << 20];
        let mut input = endless.as_slice();
        assert_eq!(read_chunk(&mut input).unwrap().0, 1);
        assert_eq!(read_chunk(&mut input).unwrap().0, 0);
    }

    #[test]
    fn the_mark_of_utf_8_is_passed_by() {
        for text in ["\u{feff}{}", "{}"] {
            let mut input = text.as_bytes();
            skip_mark(&mut input).unwrap();
            assert_eq!(input, b"{}");
        }
    }

    #[test]
    fn errors_are_told_by_the_line_of_the_file() {
        let mut tally = Tally::default();
        let detail = "the body is not JSON: expected value, at line 3, column 7";
        let problem = json!({"title": "Malformed JSON", "detail": detail, "line": 3, "column": 7});
        tally.count(json!({"line": 3, "result": "error", "problem": problem}), 200);
        let shown = &tally.shown[0];
        assert_eq!((&shown["line"], &shown["problem"]["line"]), (&json!(203), &json!(203)));
        assert_eq!(shown["problem"]["detail"], "the body is not JSON: expected value, at column 7");
    }

    #[test]
    fn what_the_host_does_not_take_now_is_not_taken_for_done_or_wrong() {
        let created = r#"{"line":1,"result":"created","id":"1"}"#;
        let stopping =
            r#"{"line":2,"result":"error","problem":{"title":"Not ready","status":503,"detail":"stopping"}}"#;
        let wrong = r#"{"line":3,"result":"error","problem":{"title":"Invalid order","status":422}}"#;
        let count = |lines: &[&str], orders| {
            let mut tally = Tally::default();
            let answer: Vec<_> = lines.iter().map(|line| Ok((*line).to_owned())).collect();
            (count_results(answer.into_iter(), orders, 0, &mut tally), tally)
        };
        let (outcome, tally) = count(&[created, wrong], 2);
        assert!(outcome.is_ok() && (tally.created, tally.errors) == (1, 1));
        let (outcome, tally) = count(&[created, stopping, wrong], 5);
        assert!(matches!(outcome, Err(Failure::Unavailable(what)) if what.contains("stopping")));
        assert_eq!((tally.created, tally.errors), (1, 1));
        let (outcome, _) = count(&[created], 5);
        assert!(matches!(outcome, Err(Failure::Unavailable(what)) if what.contains("1 of the 5")));
    }
}
