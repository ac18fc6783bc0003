//! Why the services cannot be used, and what to do about it.

use std::error::Error;
use std::fmt;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::http::Response;

use super::super::settings::Settings;
use super::Clients;
use crate::config::from_env;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Sns,
    Sqs,
    DynamoDb,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sns => "SNS",
            Self::Sqs => "SQS",
            Self::DynamoDb => "DynamoDB",
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("no AWS region is set: set aws.region (FANFARE_AWS_REGION), AWS_REGION, or a region in the profile")]
    NoRegion,
    #[error(
        "{region:?} is not an AWS region such as eu-central-1: see aws.region (FANFARE_AWS_REGION), AWS_REGION, and the \
         region in the profile"
    )]
    BadRegion { region: String },
    #[error(
        "the endpoint of {service}, {url:?}, is not a URL such as http://127.0.0.1:4566: see AWS_ENDPOINT_URL_{}, and \
         AWS_ENDPOINT_URL",
        service.to_string().to_uppercase()
    )]
    BadEndpoint { service: Service, url: String },
    #[error(
        "no AWS credentials were found{}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile that has them \
         with aws.profile (FANFARE_AWS_PROFILE), or give this machine a role ({detail})",
        profile.as_ref().map(|profile| format!(" in the profile {profile:?}")).unwrap_or_default()
    )]
    NoCredentials { profile: Option<String>, detail: String },
    /// The service knows who asks, or thinks it does, and says no.
    #[error(
        "{service} {place} does not let these credentials {action}: {detail}. Check the credentials and what they \
         allow, the region, and this machine's clock"
    )]
    Refused { service: Service, place: String, action: String, detail: String },
    #[error(
        "{service} {place} cannot be reached: {detail}. Check the network and aws.region, and the endpoint where one is \
         set (aws.endpoint_url, AWS_ENDPOINT_URL)"
    )]
    Unreachable { service: Service, place: String, detail: String },
    #[error("{service} {place} could not {action}: {detail}")]
    Failed { service: Service, place: String, action: String, detail: String },
}

/// Codes by which the services say that it is the caller who may not.
const REFUSALS: [&str; 14] = [
    "AccessDenied",
    "AccessDeniedException",
    "AuthorizationError",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

impl Clients {
    /// What it means that a call to `action` failed.
    pub fn failure<E>(&self, service: Service, action: impl Into<String>, error: &SdkError<E>) -> OpenError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let (place, action, detail) = (self.place(service), action.into(), said(error));
        let unreachable = match error {
            SdkError::TimeoutError(_) => true,
            SdkError::DispatchFailure(failure) => failure.is_io() || failure.is_timeout(),
            _ => is_of_another(error),
        };
        match error.code() {
            _ if unreachable => OpenError::Unreachable { service, place, detail },
            Some(code) if REFUSALS.contains(&code) => OpenError::Refused { service, place, action, detail },
            _ => OpenError::Failed { service, place, action, detail },
        }
    }
}

/// What a call ended with, in a line: the code and the words of the service, or why there are none. Nothing of what was sent
/// and answered besides, which is about customers.
pub fn said<E>(error: &SdkError<E>) -> String
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if let Some(code) = error.code() {
        return format!("{code}: {}", error.message().unwrap_or("no reason is given"));
    }
    match error.raw_response().filter(|_| is_of_another(error)) {
        Some(response) => told(response),
        None => chain(error),
    }
}

/// Whether something answered that is not the service, or stands before it: services say why they refuse, in their own form.
pub fn is_of_another<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    let answered = matches!(error, SdkError::ServiceError(_) | SdkError::ResponseError(_));
    answered && error.code().is_none() && error.raw_response().is_some()
}

fn told(response: &Response) -> String {
    let kind = response.headers().get("content-type").map(|kind| format!(" ({kind})")).unwrap_or_default();
    format!("the answer is not the service's own: HTTP status {}{kind}", response.status().as_u16())
}

pub(super) fn no_credentials(settings: &Settings, error: Option<&dyn Error>) -> OpenError {
    let detail = error.map_or_else(|| "nowhere to look".to_owned(), chain);
    let detail = match ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| from_env(name).is_some()) {
        [true, false] => format!("AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY; {detail}"),
        [false, true] => format!("AWS_SECRET_ACCESS_KEY is set without AWS_ACCESS_KEY_ID; {detail}"),
        _ => detail,
    };
    OpenError::NoCredentials { profile: settings.profile.clone(), detail }
}

/// An error and what it comes from, each said once.
fn chain(error: &(impl Error + ?Sized)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
