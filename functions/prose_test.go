package functions_test

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The rules of this repository's prose hold for comments, SQL, documents, errors and log lines:
//
//  1. A sentence has a subject, a verb and an object. Its first noun is the actor, and the actor has a name: caller, call, statement,
//     transaction, process, sweep, row, test.
//  2. A sentence opens with its subject or with a condition ("If ..."). It does not open with a relative word.
//  3. The comment of a function starts with a verb in the third person: returns, reports whether, waits, locks. The comment of a type
//     says its kind: "A T is a <kind of thing> that ...".
//  4. A concept has one term: returned, expired, locked, valid, previous release, looked up, poll, unavailable, early settlement.
//  5. A sentence has at most about 25 words and one colon. Its condition comes before its result. It says the positive.
//  6. Each sentence is understood alone. History belongs in commits.
//  7. An error names the field, the fault and the valid form.
//
// TestProse counts the four constructions that break rules 1 to 4 most often. The count is an alarm only: a sentence that passes it
// can still be a riddle.
var constructions = []construction{
	{
		"opens with a relative", "open with the subject, or with If",
		regexp.MustCompile(`^(What|Whoever|Who|Where|Of|That|Which|None|Whatever|Whichever)\b`),
	},
	{
		"no named actor", "name the actor: caller, call, transaction, process, test",
		regexp.MustCompile(`\b([Ww]hoever|[Ss]omebody|[Nn]obody|[Aa]nybody|[Ee]verybody)\b`),
	},
	{
		"is what", "use a verb: returns, reports whether; or a noun: is a T that",
		regexp.MustCompile(`\b(is|are) (what|who|how|when|where|whether|those)\b`),
	},
	{
		"tells", "use the technical verb: returns, reports, logs, names",
		regexp.MustCompile(`\b(told|tells?|telling)\b`),
	},
}

// A construction is a pattern of sentences that hide their actor or their verb.
type construction struct {
	name, advice string
	pattern      *regexp.Regexp
}

// A sentence is one sentence of a file, with the line on which it begins.
type sentence struct {
	file string
	line int
	text string
}

// kinds are the kinds of prose that TestProse counts separately.
var kinds = []struct {
	name string
	of   func(file string) bool
	read func(t *testing.T, file, text string) []sentence
}{
	{"comments in Go", isCode, commentsOf("//")},
	{"comments in Go tests", func(file string) bool { return strings.HasSuffix(file, "_test.go") }, commentsOf("//")},
	{"comments in SQL", func(file string) bool { return path.Ext(file) == ".sql" }, commentsOf("--")},
	{"documents", isDocument, paragraphsOf},
	{"errors and log lines", isCode, literalsOf},
}

func isCode(file string) bool {
	return path.Ext(file) == ".go" && !strings.HasSuffix(file, "_test.go")
}

func isDocument(file string) bool { return path.Ext(file) == ".md" }

// mostHits is the share of a kind's sentences that may match a construction, in thousandths. Well-written projects of this field have
// 0 to 4; no pattern is free of false alarms.
const mostHits = 5

func TestProse(t *testing.T) {
	t.Parallel()
	files := proseFiles(t, "..")
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			var all []sentence
			for _, file := range files {
				if kind.of(file) {
					text, err := os.ReadFile(filepath.Join("..", file))
					require.NoError(t, err)
					all = append(all, kind.read(t, file, string(text))...)
				}
			}
			require.NotEmpty(t, all)
			for _, c := range constructions {
				t.Run(c.name, func(t *testing.T) {
					var hits strings.Builder
					count := 0
					for _, s := range all {
						if c.pattern.MatchString(s.text) {
							count++
							hits.WriteString("\n\t" + s.file + ":" + strconv.Itoa(s.line) + ": " + s.text)
						}
					}
					t.Logf("%d of %d sentences%s", count, len(all), &hits)
					if 1000*count > mostHits*len(all) {
						t.Errorf("more than %d in 1000 sentences: %s", mostHits, c.advice)
					}
				})
			}
		})
	}
}

// Each construction matches the sentences that it is named after, and no plain sentence.
func TestProseConstructions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ sentence, construction string }{
		{"What the call returns is the stored outcome.", "opens with a relative"},
		{"Whoever calls gets the stored outcome.", "opens with a relative, no named actor"},
		{"Who calls gets the stored outcome.", "opens with a relative"},
		{"Where a race was lost it runs again.", "opens with a relative"},
		{"Of several callers one wins.", "opens with a relative"},
		{"That row is locked first.", "opens with a relative"},
		{"Which of them wins depends on the lock.", "opens with a relative"},
		{"None of the rows is locked.", "opens with a relative"},
		{"Whatever the sweep finds it records.", "opens with a relative"},
		{"Whichever caller locks the row first wins.", "opens with a relative"},
		{"Whether it settles depends on the deadline.", ""},
		{"Often a sender repeats its call.", ""},
		{"The statement locks what it changes.", ""},
		{"It returns the row that the caller named.", ""},

		{"The row belongs to somebody else.", "no named actor"},
		{"Nobody waits for a settled promise.", "no named actor"},
		{"It answers anybody who asks twice.", "no named actor"},
		{"The log is for everybody who operates it.", "no named actor"},
		{"The key belongs to whoever made it.", "no named actor"},
		{"The user nobody runs the server.", "no named actor"},
		{"Another transaction has locked the row.", ""},

		{"The result is what the row held.", "is what"},
		{"These are those of the previous release.", "is what"},
		{"This is how a call ends.", "is what"},
		{"The deadline is when the promise expires.", "is what"},
		{"The caller is who pays for it.", "is what"},
		{"The question is whether the row is locked.", "is what"},
		{"The folder is where the server keeps data.", "is what"},
		{"It returns what the row held.", ""},
		{"It reports whether the row is locked.", ""},

		{"The caller is told the outcome.", "tells"},
		{"The status tells a retry from a conflict.", "tells"},
		{"The rows tell a story of failures.", "tells"},
		{"It ends without telling the caller.", "tells"},
		{"The teller of the bank counts twice.", ""},
		{"It returns the outcome to the caller.", ""},
	} {
		t.Run(c.sentence, func(t *testing.T) {
			var matches []string
			for _, construction := range constructions {
				if construction.pattern.MatchString(c.sentence) {
					matches = append(matches, construction.name)
				}
			}
			require.Equal(t, c.construction, strings.Join(matches, ", "))
		})
	}
}

// A file's prose is divided into sentences of at least four words.
func TestProseSentences(t *testing.T) {
	t.Parallel()
	const inGo, inSQL, inDocuments, messages = "comments in Go", "comments in SQL", "documents", "errors and log lines"
	for _, c := range []struct {
		name, kind, text string
		want             []string // line: sentence
	}{
		{"a comment over two lines is one paragraph", inGo, "// One two three\n// four. Five six seven eight.\n", []string{"1: One two three four.", "2: Five six seven eight."}},
		{"code ends a paragraph", inGo, "// one two three four\nvar x int\n// five six seven eight\n", []string{"1: one two three four", "3: five six seven eight"}},
		{"a short sentence does not count", inGo, "// One two. Three four five six.\n", []string{"1: Three four five six."}},
		{"each comment behind code is a paragraph", inGo, "var x int // one two three four\nvar y int // two three four five\n", []string{"1: one two three four", "2: two three four five"}},
		{"a directive does not count", inGo, "//go:build one two three four\n", nil},
		{"a linter's reason does not count", inGo, "// one two three four nolint\n", nil},
		{"a period inside a number ends nothing", inGo, "// Version 1.5 is one that runs.\n", []string{"1: Version 1.5 is one that runs."}},
		{"a comment in SQL", inSQL, "-- One two three four.\nSELECT 1; -- two three four five\n", []string{"1: One two three four.", "2: two three four five"}},
		{
			"lists and quotations of a document", inDocuments, "- One two three four.\n\n2. Two three four five.\n\n> Three four five six.\n",
			[]string{"1: One two three four.", "3: Two three four five.", "5: Three four five six."},
		},
		{
			"each item of a list is a paragraph", inDocuments, "- one two three four\n  five\n  * **two three four five**\n",
			[]string{"1: one two three four five", "3: two three four five**"},
		},
		{"each cell of a table is a paragraph", inDocuments, "| one two three four | a \\| b c d |\n", []string{"1: one two three four", "1: a \\| b c d"}},
		{
			"headings and code of a document do not count", inDocuments,
			"# One two three four\n\n```\none two three four\n```\n\n~~~\none two three four\n~~~\n\n    one two three four\n", nil,
		},
		{
			"a message", messages, "package a\n\nvar x = errors.New(\"The row is locked. The caller repeats it.\")\n",
			[]string{"3: The row is locked.", "3: The caller repeats it."},
		},
		{
			"a message in parts", messages, "package a\n\nvar x = \"The row \" + name(\"of the locked row\") + \" is locked: \" +\n\t\"repeat the call. Each call is safe.\"\n",
			[]string{"3: The row … is locked: repeat the call.", "4: Each call is safe.", "3: of the locked row"},
		},
		{"a message of several lines", messages, "package a\n\nconst x = `\none two\nthree four`\n", []string{"4: one two three four"}},
		{"an addition of numbers is no message", messages, "package a\n\nvar x = a + b + c + d\n", nil},
		{"imports and tags of fields are no messages", messages, "package a\n\nimport \"a b c d\"\n\ntype x struct {\n\ty int `a:\"b\" c:\"d\" e:\"f\" g:\"h\"`\n}\n", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, kind := range kinds {
				if kind.name == c.kind {
					for _, s := range kind.read(t, "file"+map[string]string{inDocuments: ".md"}[c.kind], c.text) {
						got = append(got, strconv.Itoa(s.line)+": "+s.text)
					}
				}
			}
			require.Equal(t, c.want, got)
		})
	}
}

// Each file belongs to the kinds of its name. Folders that hold no source of the project are left out.
func TestProseFiles(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for file, text := range map[string]string{
		".gitignore": "/out/\n*.tmp.md\n", "README.md": "", ".github/CONTRIBUTING.md": "", ".git/a.md": "", ".hidden/a.md": "",
		"out/a.md": "", "infra/node_modules/a/README.md": "", "vendor/a/README.md": "", "infra/cdk.out/a.go": "", "shared/out/a.md": "", "shared/a.tmp.md": "", "shared/.golangci.yaml": "",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, file)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(root, file), []byte(text), 0o600))
	}
	require.ElementsMatch(t, []string{".gitignore", "README.md", ".github/CONTRIBUTING.md", "shared/out/a.md", "shared/.golangci.yaml"}, proseFiles(t, root))

	for file, want := range map[string][]string{
		"a.go": {"comments in Go", "errors and log lines"}, "a_test.go": {"comments in Go tests"}, "a.sql": {"comments in SQL"}, "a.md": {"documents"}, "a.yaml": nil,
	} {
		t.Run(file, func(t *testing.T) {
			var names []string
			for _, kind := range kinds {
				if kind.of(file) {
					names = append(names, kind.name)
				}
			}
			require.Equal(t, want, names)
		})
	}
}

// isForeign reports whether a folder of this name holds no source of the project: hidden folders other than .github, and folders that
// package managers and the CDK write.
func isForeign(folder string) bool {
	return strings.HasPrefix(folder, ".") && folder != "." && folder != ".github" || slices.Contains([]string{"node_modules", "vendor", "cdk.out"}, folder)
}

// proseFiles lists the files below a folder, by their paths in it. It leaves out foreign folders, and the paths that the folder's
// .gitignore names.
func proseFiles(t *testing.T, root string) (files []string) {
	t.Helper()
	ignore, err := os.ReadFile(filepath.Join(root, ".gitignore"))
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(t, err)
	}
	ignored := strings.Fields(string(ignore))
	err = fs.WalkDir(os.DirFS(root), ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && isForeign(entry.Name()) || slices.ContainsFunc(ignored, func(pattern string) bool { return ignores(pattern, file, entry.IsDir()) }) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if entry.Type().IsRegular() {
			files = append(files, file)
		}
		return nil
	})
	require.NoError(t, err)
	return files
}

// ignores reports whether a pattern of .gitignore names the path. It knows names, "*", a slash in front for the top folder and one
// behind for folders.
func ignores(pattern, file string, isFolder bool) bool {
	pattern, foldersOnly := strings.CutSuffix(pattern, "/")
	if foldersOnly && !isFolder {
		return false
	}
	name := path.Base(file)
	if rooted, ok := strings.CutPrefix(pattern, "/"); ok || strings.Contains(pattern, "/") {
		pattern, name = rooted, file
	}
	matched, err := path.Match(pattern, name)
	return err == nil && matched
}

// A part is a piece of a paragraph, and the line on which it stands.
type part struct {
	line int
	text string
}

var sentenceEnd = regexp.MustCompile(`\.\s+[A-Z]`)

// sentencesOf joins a paragraph's parts and divides it into its sentences. Sentences of less than four words are left out.
func sentencesOf(file string, paragraph []part) (all []sentence) {
	text, starts := "", make([]int, len(paragraph))
	for i, p := range paragraph {
		if i > 0 {
			text += " "
		}
		starts[i] = len(text)
		text += p.text
	}
	add := func(from, to int) {
		if len(strings.Fields(text[from:to])) < 4 {
			return
		}
		i, found := slices.BinarySearch(starts, from)
		if !found {
			i--
		}
		all = append(all, sentence{file, paragraph[i].line, strings.TrimLeft(strings.TrimSpace(text[from:to]), "*_(")})
	}
	from := 0
	for _, end := range sentenceEnd.FindAllStringIndex(text, -1) {
		add(from, end[0]+1)
		from = end[1] - 1 // the capital
	}
	add(from, len(text))
	return all
}

// commentsOf reads the comments that begin with a mark and a space. Comments on lines of their own are one paragraph; a comment behind
// code is a paragraph by itself.
func commentsOf(mark string) func(*testing.T, string, string) []sentence {
	own, behind := regexp.MustCompile(`^\s*`+mark+`\s(.*)$`), regexp.MustCompile(`\S\s+`+mark+`\s(.*)$`)
	return func(_ *testing.T, file, text string) (all []sentence) {
		var paragraph []part
		for i, line := range append(strings.Split(text, "\n"), "") {
			isReason := strings.Contains(line, "nolint")
			m := own.FindStringSubmatch(line)
			if m != nil && strings.TrimSpace(m[1]) != "" && !isReason && !strings.HasPrefix(m[1], "\t") {
				paragraph = append(paragraph, part{i + 1, strings.TrimSpace(m[1])})
				continue
			}
			all = append(all, sentencesOf(file, paragraph)...)
			paragraph = nil
			if m = behind.FindStringSubmatch(line); m != nil && !isReason {
				all = append(all, sentencesOf(file, []part{{i + 1, m[1]}})...)
			}
		}
		return all
	}
}

var (
	documentFence = regexp.MustCompile("^(```|~~~)")
	documentItem  = regexp.MustCompile(`^\s*([-*+]|\d+\.|>) `)
	documentCell  = regexp.MustCompile(`(?:[^|\\]|\\.)+`)
)

// paragraphsOf reads the paragraphs of a document. An item of a list and a cell of a table are paragraphs by themselves. Headings and
// code do not count.
func paragraphsOf(_ *testing.T, file, text string) (all []sentence) {
	var paragraph []part
	fenced := false
	flush := func() {
		all = append(all, sentencesOf(file, paragraph)...)
		paragraph = nil
	}
	for i, line := range append(strings.Split(text, "\n"), "") {
		if documentFence.MatchString(line) {
			fenced = !fenced
			flush()
			continue
		}
		prose := strings.TrimSpace(documentItem.ReplaceAllString(line, ""))
		switch {
		case fenced || prose == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "    "):
			flush()
		case strings.HasPrefix(line, "|"):
			flush()
			for _, cell := range documentCell.FindAllString(line, -1) {
				all = append(all, sentencesOf(file, []part{{i + 1, strings.TrimSpace(cell)}})...)
			}
		default:
			if documentItem.MatchString(line) {
				flush()
			}
			paragraph = append(paragraph, part{i + 1, prose})
		}
	}
	return all
}

// literalsOf reads the string literals of a Go file. Literals that "+" joins are one paragraph, in which "…" stands for anything else.
func literalsOf(t *testing.T, file, text string) (all []sentence) {
	t.Helper()
	positions := token.NewFileSet()
	tree, err := parser.ParseFile(positions, file, text, parser.SkipObjectResolution)
	if err != nil {
		return nil // the compiler reports it
	}
	var visit func(ast.Node) bool
	visit = func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.Field:
			n.Tag = nil
		case *ast.BinaryExpr, *ast.BasicLit:
			paragraph, others := literalParts(positions, n.(ast.Expr))
			if len(others) < len(paragraph) {
				all = append(all, sentencesOf(file, paragraph)...)
			}
			for _, other := range others {
				if other != n {
					ast.Inspect(other, visit)
				}
			}
			return false
		}
		return true
	}
	ast.Inspect(tree, visit)
	return all
}

// literalParts returns the parts of an addition of strings, and its operands that are no literals.
func literalParts(positions *token.FileSet, e ast.Expr) (paragraph []part, others []ast.Expr) {
	line := positions.Position(e.Pos()).Line
	if sum, ok := e.(*ast.BinaryExpr); ok {
		left, leftOthers := literalParts(positions, sum.X)
		right, rightOthers := literalParts(positions, sum.Y)
		return append(left, right...), append(leftOthers, rightOthers...)
	}
	literal, ok := e.(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return []part{{line, "…"}}, []ast.Expr{e}
	}
	value, err := strconv.Unquote(literal.Value)
	if err != nil {
		return nil, nil
	}
	for i, text := range strings.Split(value, "\n") {
		if literal.Value[0] != '`' {
			i = 0
		}
		if text = strings.TrimSpace(text); text != "" {
			paragraph = append(paragraph, part{line + i, text})
		}
	}
	return paragraph, nil
}
