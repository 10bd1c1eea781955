//! The login at the OpenID Connect issuer, and the rules that say who may come in.

mod access;
mod http_client;
mod issuer;

pub use access::{Denied, Person, check_access, check_email};
pub use http_client::HttpClient;
pub use issuer::{Credentials, Issuer, LoggedIn, LoginError, RecheckError};
