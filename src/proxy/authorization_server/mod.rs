//! The authorization server.

mod client_documents;
pub mod http;

pub use client_documents::ClientDocuments;
