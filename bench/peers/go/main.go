// net/http and a pool of redigo, one INCR for each visit.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/gomodule/redigo/redis"
)

func main() {
	pool := &redis.Pool{MaxIdle: 512, Dial: func() (redis.Conn, error) {
		return redis.Dial("tcp", "127.0.0.1:"+os.Getenv("REDIS_PORT"))
	}}
	http.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) {
		conn := pool.Get()
		defer conn.Close()
		count, err := redis.Int64(conn.Do("INCR", "visits"))
		if err != nil {
			http.Error(w, "the store is unavailable", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "%d\n", count)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
