//! `wasi:http` for guests: types that are values alone, and the one function that sends.
//!
//! The function is the host's own rather than wasmtime's: it traps where a grant or a limit is broken, which a future that
//! was handed out cannot, and it writes nothing to the log that a guest could repeat without end.

use http::{HeaderName, Method};
use http_body_util::{BodyExt as _, Empty};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::runtime;
use wasmtime_wasi_http::p2::bindings::http::types::{self, ErrorCode};
use wasmtime_wasi_http::p2::types::{HostFutureIncomingResponse, HostOutgoingRequest};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, RequestOptions, WasiBody, WasiHttp, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
    WasiHttpView,
};

use super::state::State;
use crate::capability::http::{Call, Failure, FailureKind, Patience, Request};
use crate::capability::{Handling, Stop};

/// The head of a request, as it lies in memory.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Of a request's body, what the guest may write at once, and what may wait to be sent.
const CHUNK_BYTES: usize = 64 << 10;

const OUTGOING_HANDLER: &str = "wasi:http/outgoing-handler@0.2.12";

/// Links the values: nothing leaves the host with them.
pub fn add_types_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    types::add_to_linker::<_, WasiHttp>(linker, &types::LinkOptions::default(), State::http)
}

/// Links the function that sends.
pub fn add_handler_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance(OUTGOING_HANDLER)?.func_wrap("handle", handle)
}

/// Links one in its place that traps: a plugin that calls out only when it is set up to must run without the grant too.
pub fn add_refusal_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance(OUTGOING_HANDLER)?.func_wrap("handle", |store, _: Handle| -> wasmtime::Result<Handled> {
        let handling = handling(store.data())?;
        Err(handling.refused().into())
    })
}

/// What wasmtime's types of `wasi:http` need of an instance.
pub struct Http {
    pub ctx: WasiHttpCtx,
    pub hooks: Hooks,
}

impl Default for Http {
    fn default() -> Self {
        let mut ctx = WasiHttpCtx::new();
        ctx.set_field_size_limit(HEAD_BYTES_MAX);
        Self { ctx, hooks: Hooks }
    }
}

pub struct Hooks;

type Sent = Result<(http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiHttpHooks for Hooks {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    /// Never called: [`handle`] stands in the place of what would.
    fn send_request(
        &mut self,
        _: http::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(std::future::ready(Err(Error::HttpRequestDenied)))
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.wasi_http()
    }
}

type Handle = (Resource<HostOutgoingRequest>, Option<Resource<RequestOptions>>);
type Handled = (Result<Resource<HostFutureIncomingResponse>, ErrorCode>,);

fn handle(mut store: StoreContextMut<'_, State>, (request, options): Handle) -> wasmtime::Result<Handled> {
    let state = store.data_mut();
    let WasiHttpCtxView { table, .. } = state.wasi_http();
    let patience = match options {
        Some(options) => {
            let RequestOptions { connect_timeout, first_byte_timeout, between_bytes_timeout } =
                table.delete(options)?;
            Patience { connect: connect_timeout, first_byte: first_byte_timeout, between_bytes: between_bytes_timeout }
        }
        None => Patience::default(),
    };
    let request = match lift(table.delete(request)?, patience) {
        Ok(request) => request,
        Err(wrong) => return Ok((Err(wrong),)),
    };
    let sending = runtime::spawn(send(handling(state)?.call(request)?));
    let WasiHttpCtxView { table, .. } = state.wasi_http();
    Ok((Ok(table.push(HostFutureIncomingResponse::Pending(sending))?),))
}

fn handling(state: &State) -> Result<&Handling, Stop> {
    state.handling.as_ref().ok_or_else(|| Stop::Overstep {
        kind: "grant",
        message: "a plugin calls out in `handle` only, not in `describe` or while it starts".to_owned(),
    })
}

fn lift(request: HostOutgoingRequest, patience: Patience) -> Result<Request, ErrorCode> {
    let HostOutgoingRequest { method, scheme, authority, path_with_query, headers, body } = request;
    let method: Method = method.try_into().map_err(|_| ErrorCode::HttpRequestMethodInvalid)?;
    let scheme = match scheme {
        None | Some(types::Scheme::Https) => "https".to_owned(),
        Some(types::Scheme::Http) => "http".to_owned(),
        Some(types::Scheme::Other(scheme)) => scheme,
    };
    let body = match body {
        Some(body) => body.map_err(|_| Failure::abandoned()).boxed_unsync(),
        None => Empty::new().map_err(|never| match never {}).boxed_unsync(),
    };
    Ok(Request {
        method,
        scheme,
        authority: authority.unwrap_or_default(),
        path_and_query: path_with_query.unwrap_or_default(),
        headers: headers.into(),
        body,
        patience,
    })
}

type Response = (http::Response<WasiBody>, runtime::AbortOnDropJoinHandle<()>);

async fn send(call: Call) -> Result<Response, Error> {
    let response = call.send().await.map_err(lower)?;
    let response = response.map(|body| body.map_err(lower).boxed_unsync());
    Ok((response, runtime::spawn(std::future::ready(()))))
}

fn lower(failure: Failure) -> Error {
    match failure.kind {
        FailureKind::NoAddress => Error::DnsError { rcode: None, info_code: None },
        FailureKind::Unreachable => Error::ConnectionRefused,
        FailureKind::ConnectTimeout => Error::ConnectionTimeout,
        FailureKind::Tls => Error::TlsProtocolError,
        FailureKind::ResponseTimeout => Error::HttpResponseTimeout,
        FailureKind::ReadTimeout => Error::ConnectionReadTimeout,
        FailureKind::Terminated => Error::ConnectionTerminated,
        FailureKind::Protocol => Error::HttpProtocolError,
        FailureKind::Abandoned | FailureKind::Stopped => Error::HttpRequestDenied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_request_ends_and_where_it_goes_is_not_the_guest_s_to_say() {
        for name in ["connection", "transfer-encoding", "upgrade", "host", "keep-alive", "proxy-authorization"] {
            assert!(Hooks.is_forbidden_header(&HeaderName::from_static(name)), "{name}");
        }
        assert!(!Hooks.is_forbidden_header(&HeaderName::from_static("authorization")));
    }
}
