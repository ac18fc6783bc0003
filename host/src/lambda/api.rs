//! `fanfare lambda api`: each event is a request, in the words of API Gateway, of a load balancer or of a function's URL.

use std::collections::BTreeSet;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lambda_http::request::RequestContext;
use lambda_http::{Body, IntoResponse, RequestExt as _, service_fn};
use lambda_runtime::Context;

use super::{Times, rest};
use crate::api::{Function, Hosts};
use crate::app;
use crate::backend::Backend;
use crate::backend::aws::invoked::Invoked;
use crate::config::{AllowedHosts, Config};
use crate::consumer::status::{Catalogue, ConsumerStatus, State};
use crate::consumer::steer::{Refusal, Steering, Step};
use crate::delivery::shadow::Report;
use crate::policy::ConsumerName;
use crate::version::Hash;

/// The API, and the store that it speaks to.
pub struct Shop {
    api: Function,
    invoked: Invoked,
}

impl Shop {
    pub fn open(config: &Config, backend: &Backend, invoked: Invoked) -> Self {
        let hosts = match &config.allowed_hosts {
            AllowedHosts::Only(names) => Hosts::Only(names.clone()),
            // Lambda decides who may ask.
            AllowedHosts::Any | AllowedHosts::ByAddress => Hosts::Any,
        };
        let api = app::api(hosts, backend, Arc::new(ByOthers), Arc::new(ByOthers));
        Self { api: Function::new(api), invoked }
    }

    pub async fn run(self) -> Result<(), lambda_runtime::Error> {
        lambda_http::run(service_fn(|request| self.answer(request))).await
    }

    async fn answer(&self, request: lambda_http::Request) -> Result<Answer, super::Error> {
        let times = Times::of(&request.lambda_context_ref().cloned().unwrap_or_else(Context::default));
        self.invoked.wake().await?;
        let answer = self.api.answer(asked(request), times.end).await;
        rest(&self.invoked, times).await;
        Ok(Answer(answer.map(|body| match String::from_utf8(body.into()) {
            Ok(text) if text.is_empty() => Body::Empty,
            Ok(text) => Body::Text(text),
            Err(error) => Body::Binary(error.into_bytes()),
        })))
    }
}

/// An answer whose body is as it is here. By its type, `application/x-ndjson` would become Base64, which a REST API hands on as that.
struct Answer(lambda_http::Response<Body>);

impl IntoResponse for Answer {
    fn into_response(self) -> Pin<Box<dyn Future<Output = lambda_http::Response<Body>> + Send>> {
        Box::pin(ready(self.0))
    }
}

/// The request as a shop sent it: its path does not begin with the stage of the API.
fn asked(request: lambda_http::Request) -> http::Request<Bytes> {
    let path = request.raw_http_path().to_owned();
    let stage = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => context.stage.as_deref().filter(|stage| *stage != "$default"),
        _ => None,
    };
    let within =
        stage.and_then(|stage| path.strip_prefix('/')?.strip_prefix(stage)).filter(|rest| rest.starts_with('/'));
    let path = within.unwrap_or(&path);
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    // What is no path is no path of the API, either.
    let uri = format!("{path}{query}").parse().unwrap_or_else(|_| request.uri().clone());
    let (mut parts, body) = request.into_parts();
    parts.uri = uri;
    let body = match body {
        Body::Text(text) => text.into(),
        Body::Binary(bytes) => bytes.into(),
        _ => Bytes::new(),
    };
    http::Request::from_parts(parts, body)
}

/// The consumers, as this function knows them: others run them.
struct ByOthers;

impl Catalogue for ByOthers {
    fn list(&self) -> Vec<ConsumerStatus> {
        Vec::new()
    }

    fn absent(&self) -> (State, &'static str) {
        (State::Running, "a function of its own or other hosts handle its events, and tell more of it")
    }

    fn datasets(&self) -> Option<BTreeSet<String>> {
        None
    }

    fn forget(&self, _name: &ConsumerName) {}

    fn shadow(&self, _name: &ConsumerName) -> Option<Report> {
        None
    }

    fn let_go(&self, _versions: Vec<Hash>) {}
}

#[async_trait]
impl Steering for ByOthers {
    async fn step(&self, name: &ConsumerName, _step: Step) -> Result<(), Refusal> {
        Err(Refusal::Impossible(format!(
            "the function of the API runs no version of {name}: ask a host that does, or deploy another one as its function"
        )))
    }
}
