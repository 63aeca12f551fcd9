module wharf-example-go

go 1.24
