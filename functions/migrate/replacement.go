package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-lambda-go/cfn"
)

// resourceID begins the custom resource's physical id.
const resourceID = "migration"

// The properties of the custom resource that checkReplacement reads.
const (
	databaseProperty = "Database" // the database's resource id, which AWS never reuses
	guardedProperty  = "Guarded"  // "true": the data must not be lost
	snapshotProperty = "Snapshot" // the snapshot that the database was restored from, or ""
)

// physicalID returns the resource's physical id after the event:
// "migration/DATABASE", and "/PREVIOUS" if the resource migrated another database
// before.
//
// A rollback needs the databases in the id. CloudFormation rolls an update back
// with another update, from the new properties to the old ones. This event looks
// like a deployment that replaces the database again, but the resource has already
// migrated its database. A changed id makes CloudFormation delete the resource
// under its old id; a delete does nothing.
func physicalID(event cfn.Event) string {
	database, known := property(event.ResourceProperties, databaseProperty), migrated(event)
	switch {
	case len(known) > 0 && (database == "" || database == known[0]):
		return event.PhysicalResourceID
	case database == "":
		return resourceID
	case len(known) > 0:
		return strings.Join([]string{resourceID, database, known[0]}, "/")
	}
	return resourceID + "/" + database
}

// migrated lists the databases in the event's physical id, newest first.
func migrated(event cfn.Event) []string {
	if list, ok := strings.CutPrefix(event.PhysicalResourceID, resourceID+"/"); ok {
		return strings.Split(list, "/")
	}
	return nil // a new resource, or one of a release that put no databases in the id
}

// checkReplacement returns an error if an update replaces a guarded database by
// a database without its data. The new database is either empty, or restored from
// the same snapshot as the old one. A rollback passes, and so do the properties of
// a release that sent no Database.
func checkReplacement(event cfn.Event) error {
	of := func(name string) (was, is string) {
		return property(event.OldResourceProperties, name), property(event.ResourceProperties, name)
	}
	was, is := of(databaseProperty)
	if event.RequestType != cfn.RequestUpdate || was == "" || is == "" || was == is || slices.Contains(migrated(event), is) {
		return nil
	}
	guardedBefore, guarded := of(guardedProperty)
	restored, snapshot := of(snapshotProperty)
	if guardedBefore != "true" && guarded != "true" || snapshot != "" && snapshot != restored {
		return nil
	}
	const happened = "Nothing was migrated. This deployment replaces the guarded database %s by %s, %s. " +
		"CloudFormation now rolls the deployment back, and the old database stays as it is. "
	switch {
	case snapshot != "":
		return fmt.Errorf(happened+"To keep the old database, undo the setting that replaces it. "+
			"To move its data, take a new snapshot of it and deploy with -c snapshot=<its name>.",
			was, is, fmt.Sprintf("which has only the data of the snapshot %q, from which the old one was restored, too", snapshot))
	case restored != "":
		return fmt.Errorf(happened+"To keep the old database, deploy with -c snapshot=%s, as before: it must stay set.",
			was, is, "which is empty, because -c snapshot is no longer set", restored)
	}
	return fmt.Errorf(happened+"To keep the old database, undo the setting that replaces it. "+
		"To move its data, take a snapshot of it and deploy with -c snapshot=<its name>.", was, is, "which is empty")
}

// property returns a property's text, or "" if it is missing.
func property(properties map[string]any, name string) string {
	value, ok := properties[name]
	if !ok {
		return ""
	}
	return fmt.Sprint(value) // CloudFormation sends booleans as text
}
