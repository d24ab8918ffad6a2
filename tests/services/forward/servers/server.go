// Takes POSTs, says how many it got and over how many connections at /stats, and closes what is idle. Prints its port.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

func main() {
	idle, _ := strconv.Atoi(os.Args[1])
	var lock sync.Mutex
	connections, requests, ids := 0, 0, map[string]bool{}
	handle := func(writer http.ResponseWriter, request *http.Request) {
		lock.Lock()
		defer lock.Unlock()
		if request.URL.Path == "/stats" {
			writer.Header().Set("Connection", "close")
			json.NewEncoder(writer).Encode(map[string]int{"connections": connections, "requests": requests, "distinct": len(ids)})
			return
		}
		body, _ := io.ReadAll(request.Body)
		requests++
		ids[string(body)] = true
		io.WriteString(writer, "taken")
	}
	opened := func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			lock.Lock()
			connections++
			lock.Unlock()
		}
	}
	server := &http.Server{Handler: http.HandlerFunc(handle), ConnState: opened, IdleTimeout: time.Duration(idle) * time.Millisecond}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	server.Serve(listener)
}
