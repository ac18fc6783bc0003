//! `POST /v1/backup`: a copy of the store as it is while the host runs, made for `fanfare backup`.
//!
//! ```text
//! {"copied":{"pages":64,"of":2000,…}}     one line every while, as long as it is made
//! {"bytes":8192000,"copied":{…}}          or {"error":"…"}
//! the file, so many bytes
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::stream;
use serde_json::json;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::limits::BACKUPS_MAX;
use super::problem::{Error, Result};
use super::{Shared, body};
use crate::backend::{self, Copied, Snapshot};

/// How often it is told how far the copy is.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// Of the file, sent at once.
const PIECE_BYTES: usize = 256 << 10;

/// The body is empty. It must be declared as JSON all the same: a page of another site could ask for copies otherwise.
pub async fn backup(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<Response> {
    body::require_json(&headers)?;
    let permit = Arc::clone(&shared.backups)
        .try_acquire_owned()
        .map_err(|_none| Error::TooMany { what: "backups", max: BACKUPS_MAX })?;
    let (told, copied) = watch::channel(Copied::default());
    let upkeep = Arc::clone(&shared.api.upkeep);
    let mut making = AbortOnDropHandle::new(tokio::spawn(async move { upkeep.backup(told).await }));
    // A store that makes none, or cannot now, says so at once.
    let part = match tokio::time::timeout(TELL_EVERY, &mut making).await {
        Err(_elapsed) => Part::Making { making, copied },
        Ok(Ok(made)) => Part::Made { snapshot: made?, copied },
        Ok(Err(error)) => return Err(Error::Bug(format!("a backup ended: {error}"))),
    };
    let pieces = stream::unfold((part, permit), |(part, permit)| async {
        let (piece, part) = part.next().await?;
        Some((piece, (part, permit)))
    });
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], Body::from_stream(pieces)).into_response())
}

/// What of the answer comes next.
enum Part {
    Making {
        making: AbortOnDropHandle<backend::Result<Snapshot>>,
        copied: watch::Receiver<Copied>,
    },
    Made {
        snapshot: Snapshot,
        copied: watch::Receiver<Copied>,
    },
    /// The copy is deleted when it was sent.
    Sending {
        file: File,
        _snapshot: Snapshot,
    },
    End,
}

impl Part {
    async fn next(self) -> Option<(io::Result<Bytes>, Self)> {
        match self {
            Self::Making { mut making, copied } => {
                let made = tokio::time::timeout(TELL_EVERY, &mut making).await;
                let so_far = *copied.borrow();
                match made {
                    Err(_elapsed) => Some((Ok(line(&json!({ "copied": so_far }))), Self::Making { making, copied })),
                    Ok(Ok(Ok(snapshot))) => Some(Self::begin(snapshot, so_far).await),
                    Ok(Ok(Err(error))) => Some((Ok(line(&json!({ "error": error.to_string() }))), Self::End)),
                    Ok(Err(error)) => Some((Err(io::Error::other(error)), Self::End)),
                }
            }
            Self::Made { snapshot, copied } => {
                let so_far = *copied.borrow();
                Some(Self::begin(snapshot, so_far).await)
            }
            Self::Sending { mut file, _snapshot } => {
                let mut piece = BytesMut::with_capacity(PIECE_BYTES);
                match file.read_buf(&mut piece).await {
                    Ok(0) => None,
                    Ok(_) => Some((Ok(piece.freeze()), Self::Sending { file, _snapshot })),
                    Err(error) => Some((Err(error), Self::End)),
                }
            }
            Self::End => None,
        }
    }

    async fn begin(snapshot: Snapshot, copied: Copied) -> (io::Result<Bytes>, Self) {
        let opened = async {
            let file = File::open(snapshot.path()).await?;
            let bytes = file.metadata().await?.len();
            Ok::<_, io::Error>((file, bytes))
        };
        match opened.await {
            Ok((file, bytes)) => {
                let first = line(&json!({ "bytes": bytes, "copied": copied }));
                (Ok(first), Self::Sending { file, _snapshot: snapshot })
            }
            Err(error) => (Ok(line(&json!({ "error": error.to_string() }))), Self::End),
        }
    }
}

fn line(value: &serde_json::Value) -> Bytes {
    format!("{value}\n").into()
}
