//! Steps one after another, with how long each took. The first failure ends the run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

#[derive(Default)]
pub struct Steps {
    done: Vec<(&'static str, Duration)>,
    skipped: Vec<String>,
}

impl Steps {
    pub fn run<T>(&mut self, name: &'static str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("\n── {name}");
        let begin = Instant::now();
        let result = step();
        self.done.push((name, begin.elapsed()));
        result.with_context(|| {
            self.print();
            format!("{name} failed")
        })
    }

    /// Notes that something was left out, and why, for the summary.
    pub fn skip(&mut self, note: impl Into<String>) {
        self.skipped.push(note.into());
    }

    pub fn print(&self) {
        let total: Duration = self.done.iter().map(|(_, took)| *took).sum();
        eprintln!();
        for (name, took) in &self.done {
            eprintln!("{:>7.1} s  {name}", took.as_secs_f64());
        }
        eprintln!("{:>7.1} s  in all", total.as_secs_f64());
        for note in &self.skipped {
            eprintln!("  skipped  {note}");
        }
    }
}
