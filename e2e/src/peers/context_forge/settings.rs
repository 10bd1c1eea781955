//! Context Forge's settings, which it takes from the environment.

use std::{path::Path, process::Command};

/// The administrator, as Context Forge makes it at its first start.
pub const ADMINISTRATOR: &str = "admin@example.com";

/// A database is prepared anew when anything here changes.
pub const FINGERPRINT: &str = include_str!("settings.rs");

/// Header mode: identity comes from `X-Forwarded-User`, from whoever can reach the port. Since 1.0.0 that takes
/// `TRUST_PROXY_AUTH_DANGEROUSLY`, since 1.0.7 also that CSRF protection is off (reference/context-forge.md §2).
const HEADER_MODE: [(&str, &str); 6] = [
    ("MCP_CLIENT_AUTH_ENABLED", "false"),
    ("MCP_REQUIRE_AUTH", "false"),
    ("TRUST_PROXY_AUTH", "true"),
    ("TRUST_PROXY_AUTH_DANGEROUSLY", "true"),
    ("PROXY_USER_HEADER", "X-Forwarded-User"),
    ("CSRF_ENABLED", "false"),
];

const SETTINGS: [(&str, &str); 15] = [
    ("CACHE_TYPE", "memory"),
    ("ENVIRONMENT", "development"),
    ("LOG_LEVEL", "INFO"),
    ("JWT_SECRET_KEY", "e2e-jwt-secret-0123456789abcdef0123456789"),
    ("AUTH_ENCRYPTION_SECRET", "e2e-enc-secret-0123456789abcdef01234567"),
    ("PLATFORM_ADMIN_EMAIL", ADMINISTRATOR),
    ("PLATFORM_ADMIN_PASSWORD", "e2e-Adm1n-Passw0rd!"),
    ("DEFAULT_USER_PASSWORD", "e2e-User-Passw0rd!"),
    ("BASIC_AUTH_PASSWORD", "e2e-Basic-Passw0rd"),
    ("MCPGATEWAY_UI_ENABLED", "false"),
    ("MCPGATEWAY_ADMIN_API_ENABLED", "true"),
    // The MCP server behind it is on loopback, or is a ClusterIP.
    ("SSRF_ALLOW_LOCALHOST", "true"),
    ("SSRF_ALLOW_PRIVATE_NETWORKS", "true"),
    // It locks an address out for 15 minutes, and all tests come from one.
    ("RATE_LIMITING_ENABLED", "false"),
    ("PYTHONUNBUFFERED", "1"),
];

/// Gives the command these settings, a database in the folder, and nothing of our own environment.
pub fn apply(command: &mut Command, programs: &Path, folder: &Path) {
    command
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", programs.display()))
        .env("HOME", folder)
        // It leaves a lock file of its migrations there.
        .env("TMPDIR", folder)
        .env("DATABASE_URL", format!("sqlite:///{}", folder.join("mcp.db").display()))
        .envs(SETTINGS)
        .envs(HEADER_MODE);
}
