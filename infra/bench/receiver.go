package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
)

// A receiver is a destination of deliveries on this machine. It answers at once and keeps the time of each promise's first message.
type receiver struct {
	server *http.Server
	url    string

	mu       sync.Mutex
	arrived  map[uuid.UUID]time.Time // by promise
	ids      map[string]bool         // of the messages
	repeated int
}

func startReceiver() (*receiver, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &receiver{url: "http://" + listener.Addr().String(), arrived: map[uuid.UUID]time.Time{}, ids: map[string]bool{}}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	go r.server.Serve(listener) //nolint:errcheck // it ends when stop closes the server
	return r, nil
}

func (r *receiver) stop() error { return r.server.Close() }

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	now := time.Now()
	var message struct {
		ID   string `json:"id"`
		Data struct {
			PromiseID uuid.UUID `json:"promiseId"`
		} `json:"data"`
	}
	body, err := io.ReadAll(req.Body)
	if err == nil {
		err = json.Unmarshal(body, &message)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ids[message.ID] {
		r.repeated++
	} else {
		r.ids[message.ID], r.arrived[message.Data.PromiseID] = true, now
	}
	w.WriteHeader(http.StatusNoContent)
}

// repetitions returns the number of messages that came once more.
func (r *receiver) repetitions() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.repeated
}

// await waits until a message about each of the promises has arrived, and returns the times. It fails if none arrives for
// patience.
func (r *receiver) await(ctx context.Context, promises []uuid.UUID, patience time.Duration) (map[uuid.UUID]time.Time, error) {
	times := make(map[uuid.UUID]time.Time, len(promises))
	for last := time.Now(); len(times) < len(promises); {
		r.mu.Lock()
		for _, id := range promises {
			if at, ok := r.arrived[id]; ok && times[id].IsZero() {
				times[id], last = at, time.Now()
			}
		}
		r.mu.Unlock()
		if time.Since(last) > patience {
			return nil, fmt.Errorf("%d of %d deliveries arrived, and no other one for %v", len(times), len(promises), patience)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(errors.New("interrupted"), ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return times, nil
}
