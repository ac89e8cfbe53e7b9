//! actix-web with one worker, one INCR for each visit.

#[path = "redis.rs"]
mod store;

use actix_web::error::ErrorServiceUnavailable;
use actix_web::web::{Data, get};
use actix_web::{App, HttpServer, Result, rt};
use redis::aio::MultiplexedConnection;

async fn count(redis: Data<MultiplexedConnection>) -> Result<String> {
    store::count(redis.get_ref().clone()).await.map_err(ErrorServiceUnavailable)
}

fn main() -> std::io::Result<()> {
    rt::System::new().block_on(async {
        let redis = Data::new(store::connect().await.expect("Redis accepts the connection"));
        HttpServer::new(move || App::new().app_data(redis.clone()).route("/count", get().to(count)))
            .workers(1)
            .tcp_nodelay(true)
            .bind(store::listen_address())?
            .run()
            .await
    })
}
