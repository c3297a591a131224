//! The gateway: stateless doors to the same files, and the pipeline behind them.
//!
//! [`Engine`] joins metadata and devices: [`ingest`](Engine::ingest) turns a body into durable chunks,
//! [`content`](Engine::content) turns a version back into bytes. [`s3`] is the S3 door. [`Maintenance`] repairs, compacts
//! and watches over the devices.

mod addressing;
mod archive;
mod aws_chunked;
mod clock;
mod digest;
mod download;
mod engine;
mod http;
mod iam;
pub mod identity;
pub mod journal;
pub mod keyring;
mod latency;
mod lifecycle;
mod loose;
mod maintenance;
mod md5_lanes;
mod metrics;
pub mod notify;
mod outbound;
mod pack_io;
mod packer;
mod placement;
pub mod replicate;
pub mod s3;
mod seal;
mod seats;
pub mod sync;
mod tls;
mod transfer;
mod upload;

pub use addressing::Domains;
pub use archive::Archivist;
pub use engine::{Engine, EngineConfig, EngineError};
pub use holdfast_gateway_object::open_chunk;
pub use http::{Doorway, ServeError, serve, serve_metrics};
pub use lifecycle::Lifecycle;
pub use loose::{LooseDevices, LoosePack, LooseShard, Walk};
pub use maintenance::{Done, Maintenance, MaintenanceConfig, OpenDevice, Upkeep};
pub use metrics::GatewayMetrics;
pub use placement::{DeviceSlots, Placement};
pub use tls::{DoorTls, TlsError, TlsFiles};
