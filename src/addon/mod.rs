//! The face for Node: [`NativeEngine`] speaks method names and JSON text, as the daemon does.
//!
//! Everything here runs on the JavaScript thread or converts for it. Callbacks are weak, so that
//! they never hold the event loop (the JavaScript side decides what does), and bounded.

#![expect(unreachable_pub, reason = "the macros export to JavaScript what is public")]
#![cfg_attr(test, allow(dead_code, reason = "the macros export nothing from a test binary"))]

mod authenticator;
mod engine;
mod events;

use std::path::{Path, PathBuf};
use std::sync::Once;

use napi::bindgen_prelude::{Object, create_custom_tokio_runtime, spawn_blocking};
use napi_derive::napi;
use serde_json::{Value, json};

use zeroize::Zeroizing;

use crate::client;
use crate::config::{Invite, load_from_file, save_to_file};
use crate::error::VpnError;
use crate::management::{error_body, validate};
use crate::report;

/// Builds the one runtime of the process, which every environment shares, when Node first loads the
/// addon. The daemon has this code in it as well, and must have no threads before it gives up its rights.
///
/// Without it (no threads left, say) the binding falls back to a runtime of its own when first
/// used.
#[napi(module_exports)]
pub fn init(_exports: Object<'_>) -> napi::Result<()> {
    static BUILT: Once = Once::new();

    BUILT.call_once(|| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("smartvpn").build();
        if let Ok(runtime) = runtime {
            create_custom_tokio_runtime(runtime);
        }
    });
    Ok(())
}

/// The library's version, as in package.json.
#[napi(catch_unwind)]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Checks a configuration, given as JSON text, of mode `client` or `server`. Returns null, or the
/// error as JSON text.
#[napi(catch_unwind)]
pub fn validate_config(mode: String, config: String) -> napi::Result<Option<String>> {
    let mode = mode.parse().map_err(|error| invalid(&error))?;
    let config: Value = serde_json::from_str(&config).map_err(|error| invalid(&error))?;
    // Relative paths are only looked up when the configuration is used.
    Ok(validate(mode, &config, Path::new("")).err().map(|error| body(&error)))
}

/// Reads a configuration file (API §4). Resolves with JSON text: `{"config":…}` or `{"error":…}`.
#[napi]
pub async fn load_config(path: String) -> napi::Result<String> {
    let load = move || match load_from_file(Path::new(&path)) {
        Ok(config) => json!({ "config": config }).to_string(),
        Err(error) => json!({ "error": error_body(&error) }).to_string(),
    };
    spawn_blocking(load).await.map_err(|error| napi::Error::from_reason(error.to_string()))
}

/// Writes a configuration file (API §4), given as JSON text. Resolves with null, or the error as
/// JSON text.
#[napi]
pub async fn save_config(path: String, config: String) -> napi::Result<Option<String>> {
    let config: Value = serde_json::from_str(&config).map_err(|error| invalid(&error))?;
    let save = move || save_to_file(Path::new(&path), &config).err().map(|error| body(&error));
    spawn_blocking(save).await.map_err(|error| napi::Error::from_reason(error.to_string()))
}

/// Registers a new key by an invite (API §9), and writes the configuration to a file that is not there yet if one is
/// named. Resolves with JSON text: `{"config":…}` or `{"error":…}`.
#[napi]
pub async fn join(url: String, name: Option<String>, config_path: Option<String>) -> napi::Result<String> {
    let url = Zeroizing::new(url);
    let file = config_path.map(PathBuf::from);
    let joined = match Invite::parse(&url) {
        Ok(invite) => Box::pin(client::join(&invite, name.as_deref(), file.as_deref())).await,
        Err(error) => Err(error.into()),
    };
    let answer = match joined {
        Ok(config) => json!({ "config": config }),
        Err(error) => json!({ "error": error_body(&error) }),
    };
    Ok(answer.to_string())
}

/// A text as a QR code of half blocks, dark modules printed, with its quiet zone; null if it is too long for one.
#[napi(catch_unwind)]
pub fn qr_code(text: String) -> Option<String> {
    report::qr_code(&text)
}

fn body(error: &VpnError) -> String {
    error_body(error).to_string()
}

fn invalid(error: &dyn std::fmt::Display) -> napi::Error {
    napi::Error::new(napi::Status::InvalidArg, error.to_string())
}
