//! `fanfare dead-letters`: what could not be handled.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, Payload, escaped};
use super::print::{Output, items, text};
use super::{Failure, print};

#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// List a consumer's dead letters, oldest first.
    List {
        consumer: String,
        /// `next` of the page before.
        #[arg(long)]
        after: Option<String>,
    },
    /// Deliver dead letters again; their lanes go on.
    Retry(Which),
    /// Give dead letters up for good; their lanes go on behind them.
    Discard(Which),
}

#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("which").required(true)))]
pub struct Which {
    consumer: String,
    #[arg(long, group = "which")]
    all: bool,
    /// The one of this event.
    #[arg(long, value_name = "ID", group = "which")]
    event: Option<String>,
    /// Those with this very cause.
    #[arg(long, group = "which")]
    cause: Option<String>,
}

impl DeadLetters {
    pub fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        match self {
            Self::List { consumer, after } => {
                let query: Vec<_> = after.iter().map(|after| ("after", after.as_str())).collect();
                let page = client.get(&format!("/v1/consumers/{}/dead-letters", escaped(&consumer)), &query)?;
                output.show(&page, overview);
                Ok(())
            }
            Self::Retry(which) => which.run(client, output, "retry"),
            Self::Discard(which) => which.run(client, output, "discard"),
        }
    }
}

impl Which {
    fn run(&self, client: &Client, output: &Output, step: &str) -> Result<(), Failure> {
        let body = match (&self.event, &self.cause) {
            (Some(event), _) => json!({ "event_id": event }),
            (_, Some(cause)) => json!({ "cause": cause }),
            (None, None) => json!({ "all": true }),
        };
        let path = format!("/v1/consumers/{}/dead-letters/{step}", escaped(&self.consumer));
        let answer = client.post(&path, Payload::json(body.to_string().as_bytes()))?;
        output.show(&answer, |answer| format!("{step}: {} dead letters", text(answer, "/count")));
        Ok(())
    }
}

fn overview(page: &Value) -> String {
    let row = |letter: &Value| {
        ["/event_id", "/type", "/order_id", "/attempts", "/cause", "/time"].map(|path| text(letter, path))
    };
    let columns = ["event", "type", "order", "attempts", "cause", "time"];
    print::page(page, columns, items(page, "/dead_letters").iter().map(row))
}
