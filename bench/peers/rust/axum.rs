//! axum on one thread, one INCR for each visit.

#[path = "redis.rs"]
mod store;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::serve::ListenerExt;
use axum::{Router, serve};
use redis::aio::MultiplexedConnection;
use tokio::net::TcpListener;

async fn count(State(redis): State<MultiplexedConnection>) -> Result<String, StatusCode> {
    store::count(redis).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let redis = store::connect().await.expect("Redis accepts the connection");
    let app = Router::new().route("/count", get(count)).with_state(redis);
    let listener = TcpListener::bind(store::listen_address()).await.expect("the port is free");
    let listener = listener.tap_io(|socket| socket.set_nodelay(true).expect("TCP_NODELAY is supported"));
    serve(listener, app).await.expect("the server does not fail");
}
