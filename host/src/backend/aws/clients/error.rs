//! Why the services cannot be used, and what to do about it.

use std::error::Error;
use std::fmt;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};

use super::super::settings::Settings;
use super::Clients;

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
    pub fn failure<E, R>(&self, service: Service, action: impl Into<String>, error: &SdkError<E, R>) -> OpenError
    where
        E: ProvideErrorMetadata + Error + 'static,
        R: fmt::Debug,
    {
        let (place, action) = (self.place(service), action.into());
        let unreachable = match error {
            SdkError::TimeoutError(_) => true,
            SdkError::DispatchFailure(failure) => failure.is_io() || failure.is_timeout(),
            _ => false,
        };
        if unreachable {
            return OpenError::Unreachable { service, place, detail: chain(error) };
        }
        let detail = match error.code() {
            Some(code) => format!("{code}: {}", error.message().unwrap_or("no reason is given")),
            None => chain(error),
        };
        match error.code() {
            Some(code) if REFUSALS.contains(&code) => OpenError::Refused { service, place, action, detail },
            _ => OpenError::Failed { service, place, action, detail },
        }
    }
}

pub(super) fn no_credentials(settings: &Settings, error: Option<&dyn Error>) -> OpenError {
    let detail = error.map_or_else(|| "nowhere to look".to_owned(), chain);
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
