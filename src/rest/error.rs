//! Errors as IPFS Cluster sends them.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Serialize, Serializer};

use crate::cluster::UseCaseError;

/// An error with its HTTP status.
#[derive(Debug, Serialize)]
pub(super) struct ApiError {
    #[serde(rename = "code", serialize_with = "as_number")]
    status: StatusCode,
    message: String,
}

fn as_number<S: Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    #[cfg(test)]
    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

impl From<UseCaseError> for ApiError {
    fn from(error: UseCaseError) -> Self {
        let status = match &error {
            UseCaseError::Unavailable(_) | UseCaseError::Unknown(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            // IPFS Cluster's text: clients compare it.
            UseCaseError::NotFound => {
                return Self::new(StatusCode::NOT_FOUND, "pin is not part of the pinset");
            }
            UseCaseError::Invalid(_) => StatusCode::BAD_REQUEST,
            UseCaseError::Busy(_) => StatusCode::CONFLICT,
            UseCaseError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        tracing::debug!(status = self.status.as_u16(), message = self.message, "refused a request");
        let mut response = (self.status, Json(&self)).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
