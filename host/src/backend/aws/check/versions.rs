//! The history of versions, and what it says is kept.

use std::collections::{BTreeMap, BTreeSet};

use super::kind::Kind;
use super::{DELETE, Look, REPORT, RESTORE, partition};
use crate::backend::aws::fleet::files;
use crate::backend::aws::item::Key;
use crate::backend::{Error, Result, Turn, TurnOutcome};
use crate::policy::ConsumerName;
use crate::version::Hash;

/// The rows of one consumer, by number; one that cannot be read says why not.
#[derive(Debug, Default)]
pub struct History {
    rows: BTreeMap<u64, Result<Turn>>,
    /// What of it is kept.
    kept: BTreeSet<Hash>,
    standing: Option<Result<Turn>>,
}

/// Of all consumers that are named among the items.
pub async fn histories(look: &Look<'_>) -> Result<BTreeMap<String, History>> {
    let mut histories: BTreeMap<String, History> = BTreeMap::new();
    for (kind, _) in &look.items {
        if let Kind::HistoryRow { by, .. } | Kind::Kept { by, .. } | Kind::Standing { by } = kind {
            histories.entry(by.clone()).or_default();
        }
    }
    if histories.is_empty() {
        return Ok(histories);
    }
    let kept = partition(look.store, "k").await?;
    look.count(kept.len());
    for (name, history) in &mut histories {
        // What is kept is read first: it goes before the row that speaks of it does.
        let own = kept.iter().filter_map(|item| item.text_or_none("sk")?.split_once('#').filter(|(by, _)| by == name));
        history.kept = own.filter_map(|(_, hash)| hash.parse().ok()).collect();
        let rows = partition(look.store, &format!("v#{name}")).await?;
        look.count(rows.len());
        for item in rows {
            history.rows.insert(item.parse("sk").unwrap_or_default(), item.json("turn"));
        }
        let Ok(name) = name.parse::<ConsumerName>() else { continue };
        history.standing = look.get(&Key::standing(&name)).await?.map(|item| item.json("turn"));
    }
    Ok(histories)
}

pub fn fault(look: &Look<'_>, kind: &Kind) -> Result<Option<String>> {
    let (Kind::HistoryRow { by, .. } | Kind::Kept { by, .. } | Kind::Standing { by }) = kind else { return Ok(None) };
    let Some(history) = look.histories.get(by) else { return Ok(None) };
    match kind {
        Kind::HistoryRow { number, .. } => history.row(*number),
        Kind::Kept { hash, .. } => history.keeps(look, hash),
        _ => history.stands(),
    }
}

impl History {
    /// The newest row that is no refusal.
    fn newest(&self) -> Option<(u64, &Turn)> {
        let turns = self.rows.iter().rev().filter_map(|(number, turn)| Some((*number, turn.as_ref().ok()?)));
        turns.into_iter().find(|(_, turn)| turn.outcome != TurnOutcome::Refused)
    }

    fn row(&self, number: u64) -> Result<Option<String>> {
        let Turn { outcome, file, live, .. } = match self.rows.get(&number) {
            Some(Ok(turn)) => turn,
            Some(Err(error)) => return Err(error.clone()),
            None => return Ok(None),
        };
        let is_newest = self.newest().is_some_and(|(newest, _)| newest == number);
        Ok(match (outcome, live) {
            (TurnOutcome::Refused, _) => None,
            (_, None) => Some(format!("it does not say which version is live: {REPORT}")),
            (TurnOutcome::Live | TurnOutcome::Promoted, live) if file.hash != *live => {
                Some(format!("its file came live, and another version is: {REPORT}"))
            }
            (TurnOutcome::Canary | TurnOutcome::RolledBack, live) if file.hash == *live => {
                Some(format!("the file beside or behind the live version is that version: {REPORT}"))
            }
            (_, Some(live)) if is_newest && !self.kept.contains(live) => {
                Some(format!("the version that is live is not kept: {RESTORE}"))
            }
            _ => None,
        })
    }

    fn keeps(&self, look: &Look<'_>, text: &str) -> Result<Option<String>> {
        let hash: Hash = text.parse().map_err(|_| Error::Failed(format!("{text} is no SHA-256").into()))?;
        let speaks = |turn: &Turn| {
            turn.outcome != TurnOutcome::Refused && (turn.file.hash == Some(hash) || turn.live == Some(hash))
        };
        Ok(if self.rows.is_empty() {
            Some(format!("its consumer has no history: {DELETE}"))
        } else if look.found(&files::file_key(&hash)).is_none_or(|file| !files::is_whole(file)) {
            Some(format!("its file is not in the table, so no host can run it: {RESTORE}"))
        } else if self.newest().is_some_and(|(_, turn)| turn.live == Some(hash)) || self.is_old() {
            None
        } else {
            let spoken_of = self.rows.values().flatten().any(speaks);
            (!spoken_of).then(|| format!("no row of the history speaks of it: {DELETE}"))
        })
    }

    /// Whether rows went by age.
    fn is_old(&self) -> bool {
        self.rows.keys().next().is_some_and(|first| *first > 1)
    }

    fn stands(&self) -> Result<Option<String>> {
        let standing = match &self.standing {
            Some(Ok(standing)) => standing,
            Some(Err(error)) => return Err(error.clone()),
            None => return Ok(None),
        };
        let is_newest = self.newest().is_some_and(|(_, newest)| newest == standing);
        Ok((!is_newest).then(|| format!("it is not what the newest row of its history left: {RESTORE}")))
    }
}
