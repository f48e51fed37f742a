//! Method names to methods.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::params;
use crate::client::Client;
use crate::config::{ClientConfig, ServerConfig};
use crate::crypto::keys::Keypair;
use crate::engine::Task;
use crate::error::{ErrorCode, VpnError};
use crate::report::Events;
use crate::server::{Authenticator, Server};

/// What an [`Endpoint`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A VPN client.
    Client,
    /// A VPN server.
    Server,
}

impl Mode {
    /// The string that options and messages have: `client` or `server`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// A client or a server that is spoken to by method names.
pub struct Endpoint {
    engine: Engine,
    /// Where relative paths of configurations start.
    base: PathBuf,
}

enum Engine {
    Client(Client),
    Server(Server),
}

impl Endpoint {
    /// An idle client or server. Must be called on a tokio runtime.
    pub fn new(mode: Mode, events: Events, base: PathBuf) -> Self {
        Self::with_authenticator(mode, events, base, None)
    }

    /// As [`Self::new`]; a server asks `authenticator` where its configuration says so.
    pub fn with_authenticator(
        mode: Mode,
        events: Events,
        base: PathBuf,
        authenticator: Option<Arc<dyn Authenticator>>,
    ) -> Self {
        let engine = match mode {
            Mode::Client => Engine::Client(Client::new(events)),
            Mode::Server => Engine::Server(Server::with_authenticator(events, authenticator)),
        };
        Self { engine, base }
    }

    /// The mode it was made with.
    pub const fn mode(&self) -> Mode {
        match self.engine {
            Engine::Client(_) => Mode::Client,
            Engine::Server(_) => Mode::Server,
        }
    }

    /// Calls a method of API §7; a method without a result gives `null`.
    ///
    /// # Errors
    /// `unsupported-method`, `invalid-argument`, and the method's own.
    pub async fn request(&self, method: &str, params: Value) -> Result<Value, VpnError> {
        if method == "shutdown" {
            params::none(&params)?;
            self.shutdown().await;
            return Ok(Value::Null);
        }
        if method == "validateConfig" {
            let config = params::value(&params, "config")?;
            return params::validate(self.mode(), &config, &self.base).map(|()| Value::Null);
        }
        match &self.engine {
            Engine::Client(client) => self.client_request(client, method, params).await,
            Engine::Server(server) => self.server_request(server, method, params).await,
        }
    }

    /// As [`Self::request`], in a task of its own: a panic inside is an error too.
    ///
    /// # Errors
    /// As [`Self::request`], and `internal`.
    pub async fn call(self: Arc<Self>, method: String, params: Value) -> Result<Value, VpnError> {
        let mut task = Task::spawn("request", async move { self.request(&method, params).await });
        task.join().await.unwrap_or_else(|panic| {
            let message = format!("a fault of smartvpn ({panic}); please report this");
            Err(VpnError::new(ErrorCode::Internal, message))
        })
    }

    /// Makes the first connection of a daemon, which is retried until it succeeds.
    ///
    /// # Errors
    /// As `connect` and `start`.
    pub async fn run_config(&self, config: &Value) -> Result<(), VpnError> {
        match &self.engine {
            Engine::Client(client) => {
                client.connect(ClientConfig::parse(config, &self.base)?, true).await.map(drop)
            }
            Engine::Server(server) => server.start(ServerConfig::parse(config, &self.base)?).await,
        }
    }

    /// Ends everything; resolves when the peers are told and the host is put back.
    pub async fn shutdown(&self) {
        match &self.engine {
            Engine::Client(client) => client.shutdown().await,
            Engine::Server(server) => server.shutdown().await,
        }
    }

    /// As [`Self::shutdown`], for a thread outside the runtime. True if it was done in time.
    pub fn shutdown_blocking(&self, timeout: Duration) -> bool {
        match &self.engine {
            Engine::Client(client) => client.shutdown_blocking(timeout),
            Engine::Server(server) => server.shutdown_blocking(timeout),
        }
    }

    async fn client_request(&self, client: &Client, method: &str, params: Value) -> Result<Value, VpnError> {
        if method == "connect" {
            let config = ClientConfig::parse(&params, &self.base)?;
            return Ok(json!(client.connect(config, false).await?));
        }
        let answer = match method {
            "disconnect" => client.disconnect().await.map(|()| Value::Null),
            "getStatus" => Ok(json!(client.status())),
            "getStatistics" => Ok(json!(client.statistics())),
            "getConnectionQuality" => client.quality().map(|quality| json!(quality)),
            "getMtuInfo" => client.mtu_info().map(|mtu| json!(mtu)),
            _ => return Err(unsupported(method, Mode::Client)),
        };
        params::none(&params)?;
        answer
    }

    async fn server_request(&self, server: &Server, method: &str, params: Value) -> Result<Value, VpnError> {
        match method {
            "start" => server.start(ServerConfig::parse(&params, &self.base)?).await.map(|()| Value::Null),
            "disconnectClient" => {
                server.disconnect_client(&params::string(&params, "id")?).await.map(|()| Value::Null)
            }
            "setClientRateLimit" => {
                let (id, limit) = params::rate_limit(&params)?;
                server.set_client_rate_limit(&id, Some(limit)).map(|()| Value::Null)
            }
            "removeClientRateLimit" => {
                server.set_client_rate_limit(&params::string(&params, "id")?, None).map(|()| Value::Null)
            }
            "createInvite" => server.create_invite(&params).await,
            "addClient" => server.add_client(&params).await,
            "updateClient" => {
                let (id, changes) = params::update(&params)?;
                server.update_client(&id, &changes).await
            }
            "removeClient" => {
                server.remove_client(&params::string(&params, "id")?).await.map(|()| Value::Null)
            }
            "getClientTelemetry" => to_json(server.client_telemetry(&params::string(&params, "id")?)),
            "stopServer"
            | "getStatus"
            | "getStatistics"
            | "listClients"
            | "listRegisteredClients"
            | "generateKeypair" => {
                params::none(&params)?;
                match method {
                    "stopServer" => {
                        server.stop_server().await;
                        Ok(Value::Null)
                    }
                    "getStatus" => Ok(json!(server.status())),
                    "getStatistics" => Ok(json!(server.statistics())),
                    "listClients" => Ok(json!(server.clients())),
                    "listRegisteredClients" => server.registered_clients().map(Value::Array),
                    _ => Ok(generate_keypair()),
                }
            }
            _ => Err(unsupported(method, Mode::Server)),
        }
    }
}

/// A new key pair, as `IVpnKeypair`.
pub fn generate_keypair() -> Value {
    let pair = Keypair::generate(&mut rand::rng());
    json!({ "publicKey": pair.public.to_string(), "privateKey": *pair.private.to_base64() })
}

fn to_json(outcome: Result<impl Serialize, VpnError>) -> Result<Value, VpnError> {
    outcome.map(|value| json!(value))
}

fn unsupported(method: &str, mode: Mode) -> VpnError {
    let message = format!("a VPN {} has no method {method:?}", mode.as_str());
    VpnError::new(ErrorCode::UnsupportedMethod, message)
}
