package build

// GoTool and Flags let the benchmark build the program empty in the same way as a function.
var (
	GoTool     = goTool
	Flags      = flags
	KeptFolder = keptFolder
	LockOpened = lockOpened
)

const (
	TemporaryPrefix = temporaryPrefix
	KeptFolders     = keptFolders
)
