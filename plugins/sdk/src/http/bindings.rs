//! How a request leaves a component: `wasi:http` 0.2.

#[allow(
    unsafe_code,
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "generated code, where the canonical ABI crosses linear memory"
)]
mod generated {
    wit_bindgen::generate!({
        path: "wit",
        world: "fanfare:sdk/calling",
        generate_all,
        runtime_path: "::fanfare_sdk::__rt",
    });
}

use generated::wasi::http::outgoing_handler::handle;
use generated::wasi::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest, Scheme,
};
use generated::wasi::io::streams::StreamError;

use super::{Error, Request, Response};

/// What `blocking-write-and-flush` takes at once.
const WRITE_BYTES_MAX: usize = 4096;
const READ_BYTES_MAX: u64 = 64 << 10;

pub fn send(request: &Request) -> Result<Response, Error> {
    let outgoing = outgoing(request)?;
    let body = outgoing.body().map_err(|()| request.error("it cannot have a body"))?;
    let future = handle(outgoing, None).map_err(|code| failed(request, &code))?;
    write(&body, &request.body);
    // What went wrong on the way is told by the response.
    let _ = OutgoingBody::finish(body, None);
    let ready = future.subscribe();
    ready.block();
    drop(ready);
    let response = match future.get() {
        Some(Ok(Ok(response))) => response,
        Some(Ok(Err(code))) => return Err(failed(request, &code)),
        Some(Err(())) | None => return Err(request.error("the host gave no response")),
    };
    let headers = response.headers().entries();
    let headers = headers.into_iter().map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()));
    Ok(Response { status: response.status(), headers: headers.collect(), body: read(request, &response)? })
}

fn outgoing(request: &Request) -> Result<OutgoingRequest, Error> {
    let mut fields: Vec<(String, Vec<u8>)> =
        request.headers.iter().map(|(name, value)| (name.clone(), value.as_bytes().to_vec())).collect();
    if !request.body.is_empty() || matches!(request.method.as_str(), "POST" | "PUT" | "PATCH") {
        fields.push(("content-length".to_owned(), request.body.len().to_string().into_bytes()));
    }
    let fields =
        Fields::from_list(&fields).map_err(|error| request.error(format!("a header is refused: {error:?}")))?;
    let wrong = |()| request.error("not a URL with a method that can be sent");
    let (scheme, rest) = request.url.split_once("://").ok_or(()).map_err(wrong)?;
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let scheme = match scheme {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        other => Scheme::Other(other.to_owned()),
    };
    let outgoing = OutgoingRequest::new(fields);
    outgoing.set_method(&method(&request.method)).map_err(wrong)?;
    outgoing.set_scheme(Some(&scheme)).map_err(wrong)?;
    outgoing.set_authority(Some(authority)).map_err(wrong)?;
    outgoing.set_path_with_query(Some(path)).map_err(wrong)?;
    Ok(outgoing)
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

fn write(body: &OutgoingBody, bytes: &[u8]) {
    let Ok(stream) = body.write() else { return };
    for chunk in bytes.chunks(WRITE_BYTES_MAX) {
        // A server may answer before it has read everything.
        if stream.blocking_write_and_flush(chunk).is_err() {
            return;
        }
    }
}

fn read(request: &Request, response: &IncomingResponse) -> Result<Vec<u8>, Error> {
    let body: IncomingBody = response.consume().map_err(|()| request.error("the response has no body"))?;
    let stream = body.stream().map_err(|()| request.error("the response has no body"))?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(READ_BYTES_MAX) {
            Ok(chunk) if bytes.len() + chunk.len() > request.body_bytes_max => {
                return Err(request.error(format!("the response has more than {} bytes", request.body_bytes_max)));
            }
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(request.error(format!("the response broke off: {}", error.to_debug_string())));
            }
        }
    }
}

fn failed(request: &Request, code: &ErrorCode) -> Error {
    request.error(match code {
        ErrorCode::DnsError(_) | ErrorCode::DnsTimeout => "the name has no address".to_owned(),
        ErrorCode::ConnectionRefused => "no connection".to_owned(),
        ErrorCode::ConnectionTimeout => "no connection in time".to_owned(),
        ErrorCode::ConnectionTerminated => "the connection broke off".to_owned(),
        ErrorCode::TlsProtocolError | ErrorCode::TlsCertificateError => "no TLS with a server of that name".to_owned(),
        ErrorCode::HttpResponseTimeout | ErrorCode::ConnectionReadTimeout => "no response in time".to_owned(),
        ErrorCode::HttpProtocolError => "the response is not HTTP".to_owned(),
        other => format!("{other:?}"),
    })
}
