use std::net::TcpListener;

use axum::{
    Json, Router,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};

/// A small MCP server (Streamable HTTP, no sessions). Its tool `whoami` returns the user that the proxy forwards.
pub async fn serve(listener: TcpListener) -> std::io::Result<()> {
    let router = Router::new().fallback(post(handle));
    axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await
}

async fn handle(headers: HeaderMap, Json(message): Json<Value>) -> Response {
    let Some(id) = message.get("id") else { return StatusCode::ACCEPTED.into_response() };
    let result = match message["method"].as_str().unwrap_or_default() {
        "initialize" => json!({
            "protocolVersion": message["params"]["protocolVersion"].as_str().unwrap_or("2025-11-25"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "mcp-oauth-operator-demo", "version": env!("CARGO_PKG_VERSION")},
        }),
        "ping" => json!({}),
        "tools/list" => json!({"tools": [{
            "name": "whoami",
            "description": "Returns the logged-in user",
            "inputSchema": {"type": "object", "properties": {}},
        }]}),
        "tools/call" => {
            let user = headers.get("x-forwarded-user").and_then(|user| user.to_str().ok()).unwrap_or("nobody");
            json!({"content": [{"type": "text", "text": format!("You are {user}")}]})
        }
        _ => {
            let error =
                json!({"code": -32601, "message": "this server has initialize, ping, tools/list and tools/call"});
            return Json(json!({"jsonrpc": "2.0", "id": id, "error": error})).into_response();
        }
    };
    Json(json!({"jsonrpc": "2.0", "id": id, "result": result})).into_response()
}
