//! A server in a process of its own, for tests whose clients are tasks of the test. The test's file has
//! `support/namespace.rs` as its module `namespace`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};
use smartvpn::config::ServerConfig;
use smartvpn::crypto::keys::{PrivateKey, PublicKey};
use smartvpn::report::{Event, EventSink, Events};
use smartvpn::server::Server;
use smartvpn::transport::{ClientTls, Endpoint};

use crate::namespace::{Helper, block_on};

/// RFC 7748 §6.1.
const PRIVATE_KEY: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const PUBLIC_KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

const PORT: u16 = 8443;

/// The key that servers prove to have.
pub(crate) fn server_key() -> PublicKey {
    PrivateKey::from_base64(PRIVATE_KEY).unwrap().public_key()
}

/// Where a server is: its address, and a folder with its certificate, its configuration and its state.
#[derive(Clone)]
pub(crate) struct Place {
    folder: Arc<tempfile::TempDir>,
    pub(crate) endpoint: Endpoint,
    pub(crate) tls: ClientTls,
}

impl Place {
    /// A place for a server whose configuration has what `settings` says beside what all of them have.
    pub(crate) fn new(settings: &Value) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.is_ca = IsCa::ExplicitNoCa;
        let cert = params.self_signed(&key).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        let mut config = json!({
            "listenAddr": format!("127.0.0.1:{PORT}"), "subnet": "10.8.0.0/16", "stateDir": folder.path(),
            "privateKey": PRIVATE_KEY, "publicKey": PUBLIC_KEY, "tlsCert": cert, "tlsKey": key.serialize_pem(),
        });
        for (name, value) in settings.as_object().unwrap() {
            config[name] = value.clone();
        }
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        Self {
            folder: Arc::new(folder),
            endpoint: Endpoint::parse(&format!("wss://127.0.0.1:{PORT}/")).unwrap(),
            tls: ClientTls::with_ca_pem(cert.as_bytes()).unwrap(),
        }
    }

    /// Starts the server, which is killed when dropped; `test` is this test, which calls [`serve`] in its role.
    pub(crate) fn start(&self, test: &str) -> Helper {
        let mut process = Helper::here(test, self.folder.path().to_str().unwrap());
        let lines = BufReader::new(process.stdout()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.contains("serves")), "the server has ended");
        process
    }
}

/// Is the server of the folder that the role names, until it is killed.
pub(crate) fn serve(folder: &str) {
    let config = fs::read(Path::new(folder).join("config.json")).unwrap();
    let config = ServerConfig::parse(&serde_json::from_slice(&config).unwrap(), Path::new("/")).unwrap();
    block_on(async {
        let server = Server::new(Events::new(Arc::new(Silent)));
        server.start(config).await.unwrap();
        println!("serves");
        std::io::stdout().flush().unwrap();
        std::future::pending::<()>().await;
    });
}

struct Silent;

impl EventSink for Silent {
    fn emit(&self, _event: Event) {}
}
