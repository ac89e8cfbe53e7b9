//! ntex on tokio with one worker, one INCR for each visit.

#[path = "redis.rs"]
mod store;

use ntex::web::error::ErrorServiceUnavailable;
use ntex::web::{App, Error, HttpServer, get, types::State};
use redis::aio::MultiplexedConnection;

async fn count(redis: State<MultiplexedConnection>) -> Result<String, Error> {
    store::count(redis.get_ref().clone()).await.map_err(|error| ErrorServiceUnavailable(error).into())
}

#[ntex::main]
async fn main() -> std::io::Result<()> {
    HttpServer::new(async || {
        let redis = store::connect().await.expect("Redis accepts the connection");
        App::new().state(redis).route("/count", get().to(count))
    })
    .workers(1)
    .bind(store::listen_address())?
    .run()
    .await
}
