//! The connection to Redis of all three servers: multiplexed, so that it pipelines concurrent commands.

use std::env;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncCommands, Client, IntoConnectionInfo, RedisResult};

pub(crate) fn listen_address() -> String {
    format!("127.0.0.1:{}", env::var("PORT").expect("PORT is set"))
}

pub(crate) async fn connect() -> RedisResult<MultiplexedConnection> {
    let port = env::var("REDIS_PORT").expect("REDIS_PORT is set");
    let info = format!("redis://127.0.0.1:{port}").into_connection_info()?;
    let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
    Client::open(info)?.get_multiplexed_async_connection().await
}

pub(crate) async fn count(mut redis: MultiplexedConnection) -> RedisResult<String> {
    let count: i64 = redis.incr("visits", 1).await?;
    Ok(format!("{count}\n"))
}
