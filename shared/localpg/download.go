package localpg

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	// npmRegistry serves the packages @embedded-postgres/<platform>, which contain Postgres's own programs.
	npmRegistry = "https://registry.npmjs.org"

	// downloadTimeout ends a start behind a proxy that drops packets.
	downloadTimeout = 5 * time.Minute

	maxPackage  = 64 << 20  // bytes; the packages have about 25 MiB
	maxUnpacked = 512 << 20 // bytes
)

// versions maps Postgres's major version to the version of the packages.
var versions = map[int]string{15: "15.18.0-beta.17", 16: "16.14.0-beta.17", 17: "17.10.0-beta.17", 18: "18.4.0-beta.17"}

// A packageName identifies a package: a platform in npm's spelling, and a version.
type packageName struct{ platform, version string }

// hashes maps each package to its SHA-512 in base64. Packages with another hash are not unpacked.
var hashes = map[packageName]string{
	{"linux-x64", "15.18.0-beta.17"}:    "TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA==",
	{"linux-x64", "16.14.0-beta.17"}:    "8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg==",
	{"linux-x64", "17.10.0-beta.17"}:    "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==",
	{"linux-x64", "18.4.0-beta.17"}:     "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
	{"linux-arm64", "15.18.0-beta.17"}:  "ape8eUuz4O2KrO8mySDMEKuHYEppJ71EJ4IanBa1fH6LOui9wifm4+iJnhFkaY+WGBa/Rgw/of+RlFHO2i+bLg==",
	{"linux-arm64", "16.14.0-beta.17"}:  "LNT9TXoOGR/RSop1PewcMtpuf1Dtg6sKU7sFA1ODqInRA8NoP15HyLekUHW5aWnruu4yfs1pcy6DaV39T556mQ==",
	{"linux-arm64", "17.10.0-beta.17"}:  "mC+bQvaBEf0WDD0nPWW3eGUXDUVzoyCzMtgl+Fw6Jy9DkQFK+jcPtzkzqhhrS/fGzn5telNpKInl8xPqDh71Ig==",
	{"linux-arm64", "18.4.0-beta.17"}:   "TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
	{"darwin-x64", "15.18.0-beta.17"}:   "W4Vd2hDkezdUAniJesLY0MZIfVJtyN7DNg2Q6X0ciwuhGYw/dh8ZDdZLZxSFmVNvpz8Itfj2s2P4MTFPczMMnQ==",
	{"darwin-x64", "16.14.0-beta.17"}:   "zikibpPYGWokfT/OFWNHCwerA3ZGat0ZyCIXOIbIucLBMDHztQ2WZQ9R5zil6oOxzElrMz2Q4aEOssGNrMDdyg==",
	{"darwin-x64", "17.10.0-beta.17"}:   "gXk65MIyttD/PWo6NDSmu/n4vzPcqZQmxVWjEKuecwlyGmWO984AZ3Ljb7F0bwPvXhqcovH4FGN4ydr0fGeJxg==",
	{"darwin-x64", "18.4.0-beta.17"}:    "4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==",
	{"darwin-arm64", "15.18.0-beta.17"}: "1hTznqARpTs+IaX3YYltEIJVNwXCuUoHhif+Xiub09SgtzpVhX1LRaJCpzp8kVJV0zxsBBFfv8kkT9TqJdJ32Q==",
	{"darwin-arm64", "16.14.0-beta.17"}: "CB1DFZ08zfmNapx231rAJW74UZfs1jQmeGLwbQSaAIRVs2uqEdMhVNLwVlztFG3ZPSeuCsgTn/0yeYDmKF67og==",
	{"darwin-arm64", "17.10.0-beta.17"}: "E2dxhSllrcyAJBHuvgTrBTx2BaPlX2vvjXClPKHxfwBezk+nTZ01uAEraKiRJMpzHSCyN8J1dTjKh4q/uTsBLQ==",
	{"darwin-arm64", "18.4.0-beta.17"}:  "Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==",
}

const (
	defaultMajor = 17
	workPrefix   = "unpack-"
)

// An archive downloads Postgres's programs from an npm registry.
type archive struct {
	url    string
	hashes map[packageName]string
	cache  string // the folder that keeps the programs; "" means cacheDir
}

func cacheDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/cache/flovyn-promises", nil // the server's user cannot enter root's cache folder
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "flovyn-promises-postgres"), nil
}

// platform returns npm's name for this machine's platform.
func platform() string {
	arch := runtime.GOARCH
	if arch == "amd64" {
		arch = "x64"
	}
	return runtime.GOOS + "-" + arch
}

// download returns the folder with the programs of the given major version, or of
// defaultMajor if major is 0. The cache keeps the programs. A lock ensures that only
// one process downloads a version. A package with an unknown hash is an error.
func (a archive) download(ctx context.Context, major int, log io.Writer) (string, error) {
	if major == 0 {
		major = defaultMajor
	}
	name := packageName{platform(), versions[major]}
	hash, ok := a.hashes[name]
	if !ok {
		return "", errNoVersion
	}
	if a.cache == "" {
		var err error
		if a.cache, err = cacheDir(); err != nil {
			return "", err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, downloadTimeout, fmt.Errorf("the download took more than %v", downloadTimeout))
	defer cancel()
	if err := os.MkdirAll(a.cache, 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(ctx, filepath.Join(a.cache, "download.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	home := filepath.Join(a.cache, name.version+"-"+name.platform)
	if _, err := os.Stat(home); err == nil {
		return filepath.Join(home, "bin"), nil
	}
	_, _ = fmt.Fprintf(log, "Postgres %s: downloading\n", name.version)
	if err := a.fetch(ctx, name, hash, home); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", err
	}
	return filepath.Join(home, "bin"), nil
}

// fetch downloads a package, checks its hash, unpacks it, and moves the complete folder to home.
func (a archive) fetch(ctx context.Context, name packageName, hash, home string) error {
	left, _ := filepath.Glob(filepath.Join(a.cache, workPrefix+"*")) // left by a killed process
	for _, dir := range left {
		_ = os.RemoveAll(dir)
	}
	packed, err := a.get(ctx, name)
	if err != nil {
		return err
	}
	if sum := sha512.Sum512(packed); base64.StdEncoding.EncodeToString(sum[:]) != hash {
		return fmt.Errorf("the package %s for %s does not have the known SHA-512", name.version, name.platform)
	}
	work, err := os.MkdirTemp(a.cache, workPrefix+"*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	if err := unpack(packed, work); err != nil {
		return fmt.Errorf("unpacking %s: %w", name.version, err)
	}
	return os.Rename(filepath.Join(work, "native"), home)
}

func (a archive) get(ctx context.Context, name packageName) ([]byte, error) {
	url := fmt.Sprintf("%s/@embedded-postgres/%[2]s/-/%[2]s-%s.tgz", a.url, name.platform, name.version)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	packed, err := io.ReadAll(io.LimitReader(response.Body, maxPackage+1))
	if err == nil && len(packed) > maxPackage {
		err = fmt.Errorf("%s: more than %d bytes", url, maxPackage)
	}
	return packed, err
}

// unpack writes the files of a package to a folder. Every user can read them. The
// package contains no links; its file pg-symlinks.json lists the links to create.
func unpack(packed []byte, folder string) error {
	plain, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(folder) // refuses paths that leave the folder
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // all files are closed already
	files := tar.NewReader(io.LimitReader(plain, maxUnpacked))
	for {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name, ok := strings.CutPrefix(header.Name, "package/")
		if !ok || header.Typeflag != tar.TypeReg {
			continue
		}
		if err := write(root, name, header.FileInfo().Mode(), files); err != nil {
			return err
		}
	}
	// MkdirTemp and a strict umask create folders that the server's user cannot enter.
	return errors.Join(link(root), openFolders(root))
}

func write(root *os.Root, name string, mode fs.FileMode, content io.Reader) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	file, err := root.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	readable := fs.FileMode(0o644)
	if mode&0o100 != 0 {
		readable = 0o755
	}
	return root.Chmod(name, readable)
}

// link creates the links that a package lists.
func link(root *os.Root) error {
	text, err := root.ReadFile("native/pg-symlinks.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(text, &links); err != nil {
		return err
	}
	for _, l := range links {
		to, err := filepath.Rel(filepath.Dir(l.Target), l.Source)
		if err != nil {
			return err
		}
		if err := root.Symlink(to, l.Target); err != nil {
			return err
		}
	}
	return nil
}

func openFolders(root *os.Root) error {
	return fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		return root.Chmod(path, 0o755)
	})
}

// lockFile waits for the lock on a file. It creates the file if it does not exist.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			_ = f.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
