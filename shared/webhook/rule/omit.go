package rule

import (
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

const omitName = "omit"

// fields returns the names of a path such as data.object.client_secret.
func fields(path string) []string { return strings.Split(path, ".") }

// omitsFields reports whether the argument of a call of omit is a literal path.
func omitsFields(call ast.CallExpr) bool {
	args := call.Args()
	if len(args) != 1 || args[0].Kind() != ast.LiteralKind {
		return false
	}
	path, ok := args[0].AsLiteral().(types.String)
	return ok && !slices.Contains(fields(string(path)), "")
}

// omit returns an object or a list without the field at a path.
func omit(args ...ref.Val) ref.Val {
	v, _ := without(args[0], fields(str(args[1])))
	return v
}

// without returns a value without the field at a path, and reports whether there was one.
// In a list it removes the field from each element. It copies the objects and lists on the
// way to the field, and shares everything else.
func without(v ref.Val, path []string) (ref.Val, bool) {
	switch t := v.(type) {
	case traits.Mapper:
		return withoutField(t, path)
	case traits.Lister:
		elements, removed := make([]ref.Val, 0, int(t.Size().(types.Int))), false
		for it := t.Iterator(); it.HasNext() == types.True; {
			element, ok := without(it.Next(), path)
			elements, removed = append(elements, element), removed || ok
		}
		if removed {
			return types.NewRefValList(types.DefaultTypeAdapter, elements), true
		}
	}
	return v, false
}

// withoutField is without for an object.
func withoutField(m traits.Mapper, path []string) (ref.Val, bool) {
	name := types.String(path[0])
	child, ok := m.Find(name)
	if ok && len(path) > 1 {
		child, ok = without(child, path[1:])
	}
	if !ok {
		return m, false
	}
	kept := make(map[ref.Val]ref.Val, int(m.Size().(types.Int)))
	for it := m.Iterator(); it.HasNext() == types.True; {
		key := it.Next()
		kept[key] = m.Get(key)
	}
	if delete(kept, name); len(path) > 1 {
		kept[name] = child
	}
	return types.NewRefValMap(types.DefaultTypeAdapter, kept), true
}

// walked returns the number of elements that without may copy.
func walked(v ref.Val, path []string) uint64 {
	n := uint64(1)
	switch t := v.(type) {
	case traits.Mapper:
		n += uint64(t.Size().(types.Int))
		if child, ok := t.Find(types.String(path[0])); ok && len(path) > 1 {
			n += walked(child, path[1:])
		}
	case traits.Lister:
		for it := t.Iterator(); it.HasNext() == types.True; {
			n += walked(it.Next(), path)
		}
	}
	return n
}
