package functions_test

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

// maxReadme is the size of the top README, in bytes: guides stand beside the code that they describe.
const maxReadme = 9_000

// inShared is the document that names every file by its path from the root, so that its whole text is checked.
const inShared = "shared/README.md"

// A markdown is a Markdown file, with its path from the root.
type markdown struct {
	path    string
	prose   string // without code blocks
	anchors map[string]bool
}

var (
	mdLink     = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)
	mdAnchor   = regexp.MustCompile(`<a id="([^"]+)"></a>`)
	mdHeading  = regexp.MustCompile(`(?m)^#{1,6} +(.+?) *$`)
	mdCode     = regexp.MustCompile("`([^`]+)`")
	mdPath     = regexp.MustCompile(`^[\w.<>{}*/-]+$`)
	mdFile     = regexp.MustCompile(`\.(go|sql|md|json|yaml|rego|guard|pem)$`)
	mdVariable = regexp.MustCompile(`<[^>]*>|\{[^}]*\}`)
)

// markdowns reads all Markdown files of the repository. It asks no version control: the tree may be an unpacked archive.
func markdowns(t *testing.T) map[string]markdown {
	t.Helper()
	found := map[string]markdown{}
	require.NoError(t, fs.WalkDir(os.DirFS(".."), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if isForeign(d.Name()) || d.Name() == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) == ".md" && d.Type().IsRegular() {
			text, err := os.ReadFile(filepath.Join("..", name))
			if err != nil {
				return err
			}
			found[name] = parseMarkdown(name, string(text))
		}
		return nil
	}))
	return found
}

func parseMarkdown(name, text string) markdown {
	d := markdown{path: name, anchors: map[string]bool{}}
	var prose strings.Builder
	fenced := false
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case !fenced && !strings.HasPrefix(line, "    "):
			prose.WriteString(line)
		}
	}
	d.prose = prose.String()
	for _, m := range mdAnchor.FindAllStringSubmatch(d.prose, -1) {
		d.anchors[m[1]] = true
	}
	for _, m := range mdHeading.FindAllStringSubmatch(d.prose, -1) {
		slug := slugOf(m[1])
		for n := 1; d.anchors[slug]; n++ {
			slug = slugOf(m[1]) + "-" + strconv.Itoa(n)
		}
		d.anchors[slug] = true
	}
	return d
}

// slugOf returns the anchor that GitHub gives to a heading: lower case, spaces as hyphens, without other punctuation.
func slugOf(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}

func TestSlugOf(t *testing.T) {
	t.Parallel()
	for heading, want := range map[string]string{
		"Wait":                      "wait",
		"Resolve, reject, cancel":   "resolve-reject-cancel",
		"List, and read `the_log`":  "list-and-read-the_log",
		"On one machine with Größe": "on-one-machine-with-größe",
	} {
		t.Run(heading, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, want, slugOf(heading))
		})
	}
}

func TestDocumentsLinkToFilesAndAnchorsThatExist(t *testing.T) {
	t.Parallel()
	all := markdowns(t)
	require.Contains(t, all, "README.md")
	require.Contains(t, all, ".github/CONTRIBUTING.md")
	for _, d := range all {
		t.Run(d.path, func(t *testing.T) {
			t.Parallel()
			for _, m := range mdLink.FindAllStringSubmatch(d.prose, -1) {
				target, anchor, hasAnchor := strings.Cut(m[1], "#")
				if strings.Contains(target, "://") {
					continue
				}
				to := d.path
				if target != "" {
					to = path.Join(path.Dir(d.path), target)
					_, err := os.Stat(filepath.Join("..", to))
					require.NoError(t, err, "%s links to %s", d.path, m[1])
				}
				if hasAnchor {
					require.True(t, all[to].anchors[anchor], "%s links to %s: %s has no such heading or anchor", d.path, m[1], to)
				}
			}
		})
	}
}

// A path between backticks begins with a folder of the root. A * and a variable in it, such as <name>, stand for anything.
func TestDocumentsNamePathsThatExist(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir("..")
	require.NoError(t, err)
	roots := map[string]bool{}
	for _, e := range entries {
		roots[e.Name()] = e.IsDir()
	}
	for _, d := range markdowns(t) {
		t.Run(d.path, func(t *testing.T) {
			t.Parallel()
			for _, m := range mdCode.FindAllStringSubmatch(d.prose, -1) {
				name := m[1]
				if !mdPath.MatchString(name) {
					continue
				}
				root, _, deeper := strings.Cut(name, "/")
				switch {
				case deeper && roots[root]:
					matches, err := filepath.Glob(filepath.Join("..", mdVariable.ReplaceAllString(name, "*")))
					require.NoError(t, err, name)
					require.NotEmpty(t, matches, "%s names %s", d.path, name)
				case d.path == inShared && mdFile.MatchString(name):
					require.FileExists(t, filepath.Join("..", name), "%s names a file by its path from the root", d.path)
				}
			}
		})
	}
}

func TestReadmeIsShort(t *testing.T) {
	t.Parallel()
	info, err := os.Stat("../README.md")
	require.NoError(t, err)
	require.LessOrEqual(t, info.Size(), int64(maxReadme), "guides stand beside the code that they describe")
}
