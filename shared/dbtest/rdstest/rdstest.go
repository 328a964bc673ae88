// Package rdstest replaces RDS Proxy in tests, in front of a real Postgres. It
// requires TLS and IAM tokens, checks the tokens as AWS does, and records the
// messages for which RDS Proxy would pin a connection.
package rdstest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// Options are the settings of a Proxy. The zero value is valid.
type Options struct {
	// Hosts are the names in the certificate; localhost by default.
	Hosts []string

	// Plain makes the proxy refuse TLS.
	Plain bool

	// Password, if set, replaces the IAM tokens.
	Password string
}

// A Proxy is a running proxy. It is safe for concurrent use.
type Proxy struct {
	// CAFile is the path of the certificate authority that signed the proxy's
	// certificate.
	CAFile string

	Region, AccessKeyID, SecretAccessKey, SessionToken string

	o      Options
	target string
	tls    *tls.Config
	l      net.Listener

	mu       sync.Mutex
	conns    map[net.Conn]bool
	tokens   []string
	refusals []string
	pins     []string
}

// Start starts a proxy that runs until the test ends. It connects an authenticated
// user to target, the URL of a superuser, with the privileges of the role that has
// the user's name.
func Start(t testing.TB, target string, o Options) *Proxy {
	t.Helper()
	if o.Hosts == nil {
		o.Hosts = []string{"localhost"}
	}
	p := &Proxy{
		// The local runner gives its functions the same credentials.
		Region: "us-east-1", AccessKeyID: "local", SecretAccessKey: "local", SessionToken: "local",
		o: o, target: target, conns: map[net.Conn]bool{},
	}
	p.tls, p.CAFile = certificate(t, o.Hosts)
	var err error
	p.l, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := p.l.Accept()
			if err != nil {
				return
			}
			p.track(conn, true)
			serving.Go(func() {
				defer p.track(conn, false)
				defer conn.Close()
				if err := p.serve(conn); err != nil {
					p.mu.Lock()
					p.refusals = append(p.refusals, err.Error())
					p.mu.Unlock()
				}
			})
		}
	})
	t.Cleanup(func() {
		p.l.Close()
		p.Cut()
		serving.Wait()
	})
	return p
}

func certificate(t testing.TB, hosts []string) (*tls.Config, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "rdstest CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	require.NoError(t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: hosts, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), key)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), 0o600))
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{{Certificate: [][]byte{leafDER}, PrivateKey: key}},
	}, file
}

// URL returns the proxy's URL for the user, with host localhost and further
// parameters ("&a=b").
func (p *Proxy) URL(user, more string) string {
	return fmt.Sprintf("postgres://%s@localhost:%d/promises?sslrootcert=%s%s", user, p.l.Addr().(*net.TCPAddr).Port, url.QueryEscape(p.CAFile), more)
}

// Env returns the variables with a function's credentials as Lambda sets them, as
// KEY=value.
func (p *Proxy) Env() []string {
	return []string{
		"AWS_REGION=" + p.Region, "AWS_ACCESS_KEY_ID=" + p.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + p.SecretAccessKey,
		"AWS_SESSION_TOKEN=" + p.SessionToken,
	}
}

// Setenv sets the variables of Env in the test's environment.
func (p *Proxy) Setenv(t testing.TB) {
	for _, pair := range p.Env() {
		name, value, _ := strings.Cut(pair, "=")
		t.Setenv(name, value)
	}
}

// Cut closes all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		conn.Close()
	}
}

// Tokens returns the tokens that clients sent, in order.
func (p *Proxy) Tokens() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.tokens)
}

// Refusals returns the reasons for which the proxy closed connections.
func (p *Proxy) Refusals() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.refusals)
}

// Pins returns the messages for which RDS Proxy would have pinned a connection:
// https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/rds-proxy-pinning.html
func (p *Proxy) Pins() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.pins)
}

func (p *Proxy) track(conn net.Conn, open bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if open {
		p.conns[conn] = true
	} else {
		delete(p.conns, conn)
	}
}

const sslRequest = 80877103

func (p *Proxy) serve(conn net.Conn) error {
	var hello [8]byte
	if _, err := io.ReadFull(conn, hello[:]); err != nil {
		return nil //nolint:nilerr // the client sent nothing
	}
	if binary.BigEndian.Uint32(hello[4:]) != sslRequest {
		return errors.New("without TLS")
	}
	if p.o.Plain {
		_, err := conn.Write([]byte("N"))
		io.Copy(io.Discard, conn) //nolint:errcheck // until the client disconnects
		return errors.Join(err, errors.New("wanted TLS"))
	}
	if _, err := conn.Write([]byte("S")); err != nil {
		return err
	}
	secure := tls.Server(conn, p.tls)
	if err := secure.Handshake(); err != nil {
		return err
	}
	client := pgproto3.NewBackend(secure, secure)
	first, err := client.ReceiveStartupMessage()
	if err != nil {
		return err
	}
	if _, ok := first.(*pgproto3.CancelRequest); ok { // for a connection that Cut has closed
		return nil
	}
	startup, ok := first.(*pgproto3.StartupMessage)
	if !ok {
		return fmt.Errorf("the client's first message is %T, not a StartupMessage", first)
	}
	client.Send(&pgproto3.AuthenticationCleartextPassword{})
	if err := client.Flush(); err != nil {
		return err
	}
	if err := client.SetAuthType(pgproto3.AuthTypeCleartextPassword); err != nil {
		return err
	}
	answer, err := client.Receive()
	if err != nil {
		return err
	}
	password, ok := answer.(*pgproto3.PasswordMessage)
	if !ok {
		return fmt.Errorf("the client's second message is %T, not a PasswordMessage", answer)
	}
	user := startup.Parameters["user"]
	if err := p.check(user, password.Password); err != nil {
		client.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01", Message: "PAM authentication failed for user"})
		return errors.Join(err, client.Flush())
	}
	return p.relay(secure, client, startup)
}

// check verifies the token as AWS does. A token is a signed request that is never sent.
func (p *Proxy) check(user, token string) error {
	p.mu.Lock()
	p.tokens = append(p.tokens, token)
	p.mu.Unlock()
	if p.o.Password != "" {
		if token != p.o.Password {
			return errors.New("wrong password")
		}
		return nil
	}
	u, err := url.Parse("https://" + token)
	if err != nil {
		return err
	}
	q := u.Query()
	if q.Get("DBUser") != user || q.Get("Action") != "connect" {
		return fmt.Errorf("the token allows %s to %s, not %s to connect", q.Get("DBUser"), q.Get("Action"), user)
	}
	made, err := time.Parse("20060102T150405Z", q.Get("X-Amz-Date"))
	if err != nil || q.Get("X-Amz-Expires") != "900" || time.Since(made).Abs() > 15*time.Minute {
		return fmt.Errorf("the token of %s for %s s is not valid for 900 s from now", q.Get("X-Amz-Date"), q.Get("X-Amz-Expires"))
	}
	unsigned := url.Values{"Action": {"connect"}, "DBUser": {user}, "X-Amz-Expires": {"900"}}
	port := strconv.Itoa(p.l.Addr().(*net.TCPAddr).Port)
	req, err := http.NewRequest(http.MethodGet, "https://localhost:"+port+"?"+unsigned.Encode(), nil)
	if err != nil {
		return err
	}
	const emptyPayload = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	want, _, err := v4.NewSigner().PresignHTTP(context.Background(), aws.Credentials{
		AccessKeyID: p.AccessKeyID, SecretAccessKey: p.SecretAccessKey, SessionToken: p.SessionToken,
	}, req, emptyPayload, "rds-db", p.Region, made)
	if err != nil {
		return err
	}
	if want != "https://"+token {
		return errors.New("the token's signature does not match")
	}
	return nil
}

// relay connects the client to Postgres and forwards their messages.
func (p *Proxy) relay(conn net.Conn, client *pgproto3.Backend, startup *pgproto3.StartupMessage) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conf, err := pgconn.ParseConfig(p.target)
	if err != nil {
		return err
	}
	conf.RuntimeParams["role"] = startup.Parameters["user"]
	for name, value := range startup.Parameters {
		if name != "user" && name != "database" {
			conf.RuntimeParams[name] = value
		}
	}
	made, err := pgconn.ConnectConfig(ctx, conf)
	if err != nil {
		var e *pgconn.PgError
		if errors.As(err, &e) {
			client.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: e.Code, Message: e.Message})
			return errors.Join(err, client.Flush())
		}
		return err
	}
	server, err := made.Hijack()
	if err != nil {
		return err
	}
	defer server.Conn.Close()
	client.Send(&pgproto3.AuthenticationOk{})
	for name, value := range server.ParameterStatuses {
		client.Send(&pgproto3.ParameterStatus{Name: name, Value: value})
	}
	client.Send(&pgproto3.BackendKeyData{ProcessID: server.PID, SecretKey: server.SecretKey})
	client.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if err := client.Flush(); err != nil {
		return err
	}
	go func() {
		io.Copy(conn, server.Conn) //nolint:errcheck // it ends with either connection
		conn.Close()
	}()
	for {
		var head [5]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return nil //nolint:nilerr // the client has disconnected
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(conn, body); err != nil {
			return nil //nolint:nilerr // the same
		}
		p.recordPin(head[0], body)
		if _, err := server.Conn.Write(append(head[:], body...)); err != nil {
			return nil //nolint:nilerr // Postgres has disconnected
		}
	}
}

var pinning = regexp.MustCompile(`(?i)^\s*(set|prepare|execute|deallocate|discard|listen|declare|load|create\s+temp)\b|` +
	`pg_(try_)?advisory|nextval|setval|currval|set_config`)

// recordPin records a message of the client for which RDS Proxy would pin its connection.
func (p *Proxy) recordPin(kind byte, body []byte) {
	var text string
	switch kind {
	case 'P':
		name, rest, _ := strings.Cut(string(body), "\x00")
		text, _, _ = strings.Cut(rest, "\x00")
		if name != "" {
			p.pin("named statement: " + text)
			return
		}
	case 'Q':
		text = strings.TrimRight(string(body), "\x00")
	default:
		return
	}
	const longest = 16 << 10
	if pinning.MatchString(text) || len(text) > longest {
		p.pin(text)
	}
}

func (p *Proxy) pin(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pins = append(p.pins, text)
}
