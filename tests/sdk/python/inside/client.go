// A client that is built with Go and linked statically: it asks for each address and shows what came.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	client := &http.Client{Timeout: 20 * time.Second}
	for _, address := range os.Args[1:] {
		request, err := http.NewRequest("GET", address, nil)
		if err != nil {
			fmt.Println("error:", err)
			continue
		}
		request.Header.Set("Authorization", "Bearer "+os.Getenv("API_TOKEN"))
		response, err := client.Do(request)
		if err != nil {
			fmt.Println("error:", err)
			continue
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		fmt.Println(response.StatusCode, response.Proto, string(body))
	}
}
