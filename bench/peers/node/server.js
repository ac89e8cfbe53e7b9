// Fastify and ioredis, one INCR for each visit.
const fastify = require('fastify')();
const Redis = require('ioredis');
const redis = new Redis(Number(process.env.REDIS_PORT), '127.0.0.1', { noDelay: true });

fastify.get('/count', async (request, reply) => {
  reply.type('text/plain; charset=utf-8');
  return `${await redis.incr('visits')}\n`;
});

fastify.listen({ host: '127.0.0.1', port: Number(process.env.PORT) });
