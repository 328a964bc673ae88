// Command send-deliveries is the Lambda that sends a batch of deliveries to their destination. It runs outside the VPC and has no way
// to the database.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/delivery/awssender"
)

func main() {
	app.RunSendDeliveries(func(endpointsOnly bool) app.DeliverySender {
		sender := awssender.New()
		sender.EndpointsOnly = endpointsOnly
		return sender
	})
}
