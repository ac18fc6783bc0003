//! Bodies on their way: counted, bounded in time, and masked where they come back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};

use super::calls::{Calls, Failure, FailureKind};
use super::secrets::Masking;

pub type Body = UnsyncBoxBody<Bytes, Failure>;

/// The guest's body, which counts while it is sent.
pub fn sent(body: Body, calls: Arc<Calls>) -> Body {
    let counted = move |frame: Frame<Bytes>| {
        // The connection is given up with the handling; until then nothing more of the body leaves.
        let within = frame.data_ref().is_none_or(|data| calls.take_bytes(data.len()).is_ok());
        if within { frame } else { Frame::data(Bytes::new()) }
    };
    body.map_frame(counted).boxed_unsync()
}

/// The server's body, which counts while it is read.
pub fn received(body: Incoming, calls: Arc<Calls>, n: u32, patience: Option<Duration>) -> Body {
    let state = Receiving { body, calls, n, patience, masking: Masking::default(), ended: false };
    StreamBody::new(stream::try_unfold(state, Receiving::next)).boxed_unsync()
}

struct Receiving {
    body: Incoming,
    calls: Arc<Calls>,
    n: u32,
    patience: Option<Duration>,
    masking: Masking,
    ended: bool,
}

impl Receiving {
    async fn next(mut self) -> Result<Option<(Frame<Bytes>, Self)>, Failure> {
        while !self.ended {
            match self.frame().await {
                None => {
                    self.ended = true;
                    let rest = self.masking.end(self.calls.secrets());
                    if !rest.is_empty() {
                        return Ok(Some((Frame::data(rest), self)));
                    }
                }
                Some(Err(failure)) => {
                    self.calls.failed(self.n, format!("the body broke off: {failure}"));
                    return Err(failure);
                }
                Some(Ok(frame)) => {
                    // Trailers are for programs on the way.
                    let Ok(data) = frame.into_data() else { continue };
                    self.calls.take_bytes(data.len())?;
                    let data = self.masking.push(data, self.calls.secrets());
                    if !data.is_empty() {
                        return Ok(Some((Frame::data(data), self)));
                    }
                }
            }
        }
        Ok(None)
    }

    async fn frame(&mut self) -> Option<Result<Frame<Bytes>, Failure>> {
        let frame = self.body.frame();
        let frame = match self.patience {
            None => frame.await,
            Some(patience) => match tokio::time::timeout(patience, frame).await {
                Ok(frame) => frame,
                Err(_) => {
                    let detail = format!("nothing came for {patience:?}");
                    return Some(Err(Failure { kind: FailureKind::ReadTimeout, detail }));
                }
            },
        };
        frame.map(|frame| frame.map_err(|error| Failure::of_hyper(&error)))
    }
}
