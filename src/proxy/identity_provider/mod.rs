//! The login at the OpenID Connect issuer.

mod issuer;

pub use issuer::{Credentials, Issuer, LoggedIn, LoginError, RecheckError};
