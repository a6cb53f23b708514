//! A typed client of the Docker Engine API, 1.40 to 1.52, over a Unix socket, TCP or TLS.
//!
//! Knows Docker and nothing of Longshore. Blocking, on the caller's thread; starts no thread of its own but for a name
//! lookup. Whatever blocks for long takes a [`Closer`], which ends it from another thread.
//!
//! | module | subject |
//! |---|---|
//! | [`endpoint`] | where the Engine is: `DOCKER_HOST` and its companions, the sockets to try |
//! | [`error`] | what can go wrong |
//! | [`client`] | the calls on containers and the Engine |
//! | [`image`], [`mod@reference`], [`auth`] | pull, inspect, remove; what an image is called; who may fetch it |
//! | [`container`], [`inspect`] | what is sent to make a container; what the Engine says of it |
//! | [`events`] | what happens to containers, as it happens |
//! | [`logs`], [`lines`], [`frames`] | a container's output: the stream, its lines, the frames they come in |
//! | [`attach`] | a container's input |
//! | [`stats`] | what a container uses, by the Engine's own count |
//! | `http`, `call` | the pool and the version; one request, its bounds, and whether it may be repeated |
//! | `transport`, `buffers`, `stream` | HTTP over our sockets; what it is read and written through; bytes with a deadline |
//! | `dial`, `tls` | opening them |
//! | `closer`, `json_lines`, `time` | ending what blocks; objects of a stream; RFC 3339 |

mod buffers;
mod call;
mod closer;
mod dial;
mod http;
mod json_lines;
mod stream;
mod time;
mod tls;
mod transport;

pub mod attach;
pub mod auth;
pub mod client;
pub mod container;
pub mod endpoint;
pub mod error;
pub mod events;
pub mod exchange;
pub mod frames;
pub mod image;
pub mod inspect;
pub mod lines;
pub mod logs;
pub mod reference;
pub mod stats;

pub use attach::Stdin;
pub use auth::{AuthError, RegistryAuth, Secret};
pub use client::Client;
pub use closer::Closer;
pub use container::{
    ContainerConfig, ContainerId, Created, Empty, HostConfig, LogConfig, Mount, PortBinding, Resources,
    RestartPolicy,
};
pub use endpoint::{ApiVersion, Endpoint, EndpointError};
pub use error::Error;
pub use events::{Action, ContainerEvent, EventCursor, EventQuery, EventStream};
pub use exchange::{Exchange, InputEnd};
pub use frames::Output;
pub use http::Ping;
pub use image::PullProgress;
pub use inspect::{Container, Image, Info, State, Status, Summary, Version};
pub use lines::Line;
pub use logs::{LogQuery, LogStream};
pub use reference::{ImageVersion, Reference, ReferenceError};
pub use stats::ContainerStats;
pub use time::{parse_rfc3339, unix_seconds};
