//! The errors of the tiers below, as users see them.

use std::error::Error;

use crate::control::ControlError;
use crate::error::{ErrorCode, VpnError};
use crate::network::NetworkError;
use crate::transport::{BindError, DialError, TlsConfigError};
use crate::tunnel::TunError;

/// What each of those errors is to a user: its code, its message, and what lies behind it.
macro_rules! reported {
    ($($error:ty),+) => {
        $(impl From<$error> for VpnError {
            fn from(error: $error) -> Self {
                reported(error.code(), &error)
            }
        })+
    };
}

reported!(ControlError, NetworkError, BindError, DialError, TlsConfigError, TunError);

fn reported(code: ErrorCode, error: &dyn Error) -> VpnError {
    let report = VpnError::new(code, error.to_string());
    match error.source() {
        Some(cause) => report.caused_by(cause),
        None => report,
    }
}
