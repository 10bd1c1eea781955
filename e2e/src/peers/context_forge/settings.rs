//! Context Forge's settings, which are environment variables.

use std::{path::Path, process::Command};

/// The administrator that Context Forge creates at its first start.
pub const ADMINISTRATOR: &str = "admin@example.com";

/// Part of the cached database's key: a change of this file creates a new one.
pub const FINGERPRINT: &str = include_str!("settings.rs");

/// Header mode: Context Forge trusts `X-Forwarded-User` from everyone who can reach the port. Since 1.0.0 it requires
/// `TRUST_PROXY_AUTH_DANGEROUSLY`, since 1.0.7 also disabled CSRF protection.
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
    // The MCP server is on loopback or a ClusterIP.
    ("SSRF_ALLOW_LOCALHOST", "true"),
    ("SSRF_ALLOW_PRIVATE_NETWORKS", "true"),
    // The limit blocks an address for 15 minutes, and all tests share one address.
    ("RATE_LIMITING_ENABLED", "false"),
    ("PYTHONUNBUFFERED", "1"),
];

/// Sets these settings and a database in the folder, and clears the inherited environment.
pub fn apply(command: &mut Command, programs: &Path, folder: &Path) {
    command
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", programs.display()))
        .env("HOME", folder)
        // Context Forge leaves its migration lock file there.
        .env("TMPDIR", folder)
        .env("DATABASE_URL", format!("sqlite:///{}", folder.join("mcp.db").display()))
        .envs(SETTINGS)
        .envs(HEADER_MODE);
}
