//! `fanfare messages`: e-mail and SMS on their way out.

use clap::Subcommand;
use serde_json::Value;

use super::client::Client;
use super::print::{Output, items, text};
use super::{Failure, print};

#[derive(Debug, Subcommand)]
pub enum Messages {
    /// List messages, newest first.
    List {
        /// `next` of the page before.
        #[arg(long)]
        after: Option<String>,
        #[arg(long)]
        limit: Option<u32>,
    },
}

impl Messages {
    pub fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let Self::List { after, limit } = self;
        let limit = limit.map(|limit| limit.to_string());
        let asked = [("after", after.as_deref()), ("limit", limit.as_deref())];
        let query: Vec<_> = asked.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        output.show(&client.get("/v1/messages", &query)?, overview);
        Ok(())
    }
}

fn overview(page: &Value) -> String {
    let row = |message: &Value| {
        ["/kind", "/to", "/subject", "/state", "/attempts", "/last_error", "/time"].map(|path| text(message, path))
    };
    let columns = ["kind", "to", "subject", "state", "attempts", "last error", "time"];
    print::page(page, columns, items(page, "/messages").iter().map(row))
}
