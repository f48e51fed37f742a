//! What a daemon shares with the system it runs under: its management socket, its standard streams,
//! its service manager.

mod activation;
mod error;
mod folder;
mod limits;
mod lock;
mod peer;
mod privileges;
mod service_manager;
mod socket;
mod stdio;

pub use activation::{Activated, activated_socket};
pub use error::ControlError;
pub use limits::raise_open_files;
pub use privileges::{Keep, close_memory, give_up_rights};
pub use service_manager::ServiceManager;
pub use socket::ManagementSocket;
pub use stdio::{Hangup, Input, Output, stdio};
